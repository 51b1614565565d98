"""A launcher that keeps the protocol, trains nothing, and draws its metric: from the seed, the machine's drift, and the idea's true gain.

Arguments: SECONDS that a run takes, and DRIFT, the share of the noise's variance that the machine has (0 to 1). With a directory as
a third argument it draws for that run alone, on a machine without drift.

The gain stands in the code: `UNEMBEDDING_LR = 0.004ggnnnn` is idea nnnn, better by gg tenths of a standard deviation than `0.004`. In a
folder `ideas`, the number behind `GAIN` in each file adds to it, so that many ideas can be stacked.
The code FAILS where the word stands in it. $DRAWN_DEVICE is the model of its GPU. The drift is an autoregressive walk over the runs in order of their starts.
"""

import fcntl
import json
import os
import random
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from autoresearch_mcp.trainer import protocol

NOISE = 0.01
MEMORY = 0.6  # correlation of the drift between a run and the next
RESULT = protocol.Result(
    state="finished",
    val_bpb=1.5,
    sandbox="landlock-7",
    hashes={"fixed": "", "data": "", "tokenizer": "", "code": ""},
    versions={"torch": ""},
    device_name=os.environ.get("DRAWN_DEVICE", ""),
)
SECONDS, DRIFT = (float(text) for text in sys.argv[1:3])


def metrics(directory: Path, place: float) -> tuple[float, float]:
    """What validation and the hidden split would show."""
    seed = (protocol.read_json(directory / protocol.SPEC) or {})["seed"]
    code = (directory / protocol.CODE / "train.py").read_text(encoding="utf-8")
    written = re.search(r"UNEMBEDDING_LR = 0\.004(\d\d)\d+", code)
    gain = int(written[1]) / 10 if written else 0.0
    gain += sum(float(re.findall(r"GAIN = (\S+)", file.read_text("utf-8"))[0]) for file in directory.glob(f"{protocol.CODE}/ideas/*.py"))
    own = random.Random(seed)
    value = 1.5 + NOISE * ((1 - DRIFT) ** 0.5 * own.gauss(0, 1) + DRIFT**0.5 * place - gain)
    return value, value + 0.2 + 0.2 * NOISE * own.gauss(0, 1)


def run(directory: Path, place: float) -> None:
    with (directory / protocol.LOCK).open("w", encoding="ascii") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        protocol.write_json(directory / protocol.PROGRESS, protocol.Progress("running", 0.5))
        deadline = time.monotonic() + SECONDS
        while not (cancelled := (directory / protocol.CANCEL).exists()) and time.monotonic() < deadline:
            time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
        if cancelled:
            ending: dict[str, object] = {"state": "cancelled", "val_bpb": None}
        elif "FAILS" in (directory / protocol.CODE / "train.py").read_text(encoding="utf-8"):
            ending = {"state": "crashed", "val_bpb": None, "failure": {"kind": "error", "message": "It fails."}}
        else:
            value, hidden = metrics(directory, place)
            ending = {"val_bpb": value}
            protocol.write_hidden(directory, hidden)
        result = replace(RESULT, hashes=RESULT.hashes | {"weights": directory.parts[-2]}, **ending)  # type: ignore[arg-type]
        protocol.write_json(directory / protocol.RESULT, result)


def walk(kept: Path) -> float:
    """The machine's next place, kept in a file between runners."""
    last, number = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else (0.0, 0)
    place = MEMORY * last + (1 - MEMORY**2) ** 0.5 * random.Random(f"drift {number}").gauss(0, 1)
    kept.write_text(json.dumps([place, number + 1]), encoding="utf-8")
    return place


signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 3 and sys.argv[3] != "--warm":
    run(Path(sys.argv[3]), 0.0)
    sys.exit()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    directory = Path(line.rstrip("\n"))
    place = walk(directory.parents[1] / "drift.json")
    if os.fork() == 0:
        run(directory, place)
        os._exit(0)
    sys.stdout.write(json.dumps({"run": line.rstrip("\n")}) + "\n")
    sys.stdout.flush()
