"""A launcher that keeps the protocol and trains nothing: what is left is the loop's own time.

With the arguments `score N`, a run is in scoring until N have been, or a second has passed; `steps` says how many it saw there.
"""

import fcntl
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from autoresearch_mcp.trainer import protocol

RESULT = protocol.Result(
    state="finished",
    val_bpb=1.5,
    sandbox="unsandboxed",
    hashes={"fixed": "", "data": "", "tokenizer": "", "code": ""},
    versions={"torch": ""},
)


def run(directory: Path) -> None:
    with (directory / protocol.LOCK).open("w", encoding="ascii") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.write("1")
        lock.flush()
        scoring = score(directory) if "score" in sys.argv else 0
        protocol.write_json(directory / protocol.RESULT, replace(RESULT, steps=scoring))


def score(directory: Path) -> int:
    protocol.write_json(directory / protocol.PROGRESS, protocol.Progress("scoring", 1.0))
    deadline, scoring, wanted = time.monotonic() + 1, 1, int(sys.argv[sys.argv.index("score") + 1])
    while scoring < wanted and time.monotonic() < deadline:
        scoring = len(list(directory.parents[1].glob(f"*/*/{protocol.PROGRESS}")))
        time.sleep(0.01)
    return scoring


for line in sys.stdin:
    if "score" not in sys.argv:
        run(Path(line.rstrip("\n")))
    elif os.fork() == 0:
        run(Path(line.rstrip("\n")))
        os._exit(0)
    sys.stdout.write(json.dumps({"run": line.rstrip("\n")}) + "\n")
    sys.stdout.flush()
