"""A launcher whose runs train nothing and don't end: they hold their slots until the runner lets go of the launcher."""

import json
import os
import sys
import time
from pathlib import Path

from autoresearch_mcp.trainer import files, protocol

gone, mine = os.pipe()


def hold(directory: Path) -> None:
    """Hold a run's lock until the launcher has gone."""
    os.close(mine)
    lock = os.open(directory / protocol.LOCK, os.O_RDWR | os.O_CREAT)
    while not files.try_process_lock(lock):  # as the real one: the runner looks at it
        time.sleep(0.01)
    os.write(lock, str(os.getpid()).encode())
    protocol.write_json(directory / protocol.PROGRESS, protocol.Progress("running", 0.1))
    os.read(gone, 1)
    os._exit(0)


for line in sys.stdin:
    if (pid := os.fork()) == 0:
        hold(Path(line.rstrip("\n")))
    sys.stdout.write(json.dumps({"pid": pid}) + "\n")
    sys.stdout.flush()
