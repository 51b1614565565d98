"""A launcher that keeps the protocol, trains nothing, and draws a loss curve.

Code with the word HOPELESS in it reports a far worse loss and then waits for a cancellation, for two seconds at most. All other code
finishes at once.
"""

import fcntl
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from autoresearch_mcp.trainer import protocol

RESULT = protocol.Result(
    state="finished",
    val_bpb=1.5,
    sandbox="landlock-7",
    hashes={"fixed": "", "data": "", "tokenizer": "", "code": ""},
    versions={"torch": ""},
)


def run(directory: Path) -> None:
    spec = protocol.read_json(directory / protocol.SPEC) or {}
    rng = random.Random(spec["seed"])
    hopeless = "HOPELESS" in (directory / protocol.CODE / "train.py").read_text(encoding="utf-8")
    curve = [[(point + 0.5) / 60, 5 - point / 30 + hopeless + rng.gauss(0, 0.02)] for point in range(60)]
    with (directory / protocol.LOCK).open("w", encoding="ascii") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        cancelled = wait(directory, curve[:31]) if hopeless else False
        ending = {"state": "cancelled", "val_bpb": None} if cancelled else {"val_bpb": 1.5 + rng.gauss(0, 0.01)}
        if not cancelled:
            protocol.write_hidden(directory, ending["val_bpb"] + 0.01)
        protocol.write_json(
            directory / protocol.RESULT, replace(RESULT, curve=curve, hashes=RESULT.hashes | {"weights": directory.parts[-2]}, **ending)
        )


def wait(directory: Path, curve: list[list[float]]) -> bool:
    """Be in the middle of a training; returns whether it was cancelled."""
    rows = [json.dumps({"t": 0, "share": share, "loss": loss}) + "\n" for share, loss in curve]
    (directory / protocol.CURVE).write_text("".join(rows), encoding="utf-8")
    protocol.write_json(directory / protocol.PROGRESS, protocol.Progress("running", 0.5))
    deadline = time.monotonic() + 2
    while not (cancelled := (directory / protocol.CANCEL).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return cancelled


signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    if os.fork() == 0:
        run(Path(line.rstrip("\n")))
        os._exit(0)
    sys.stdout.write(json.dumps({"run": line.rstrip("\n")}) + "\n")
    sys.stdout.flush()
