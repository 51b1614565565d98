"""A launcher that keeps the protocol and trains nothing, for `tests.session`: its argument is the seconds that a run takes.

What a run finds depends on the constants in the code: a few of them are better or worse by a known gain, and a deep model runs out of memory.
"""

import fcntl
import json
import math
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

from autoresearch_mcp.trainer import protocol

NOISE = 0.005
GAINS = {"WARMDOWN_RATIO = 0.8": 0.030, "SOFTCAP = 0.0": 0.022, "WEIGHT_DECAY = 0.0": 0.001}
TOO_LARGE = "DEPTH = 64"
RESULT = protocol.Result(
    state="finished",
    val_bpb=1.5,
    sandbox="landlock-7+seccomp",
    cpu_share=0.98,
    tokens=512_000,
    hashes={"fixed": "", "data": "", "tokenizer": "", "code": ""},
    versions={"torch": ""},
    timings={"startup_cpu_s": 0.4},
)


def run(directory: Path, seconds: float) -> None:
    """Be a training in this run directory."""
    code = (directory / protocol.CODE / "train.py").read_text(encoding="utf-8")
    dice = random.Random((protocol.read_json(directory / protocol.SPEC) or {})["seed"])
    with (directory / protocol.LOCK).open("w", encoding="ascii") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.write(str(os.getpid()))
        lock.flush()
        protocol.write_json(directory / protocol.PROGRESS, protocol.Progress("running", 0.5))
        (directory / protocol.LOG).write_text("step 50 loss 4.81\nstep 500 loss 3.22\n", encoding="utf-8")
        time.sleep(seconds)
        protocol.write_json(directory / protocol.RESULT, result(directory, code, dice))


def result(directory: Path, code: str, dice: random.Random) -> protocol.Result:
    """Return what the training ends with, and write its score on the hidden split down."""
    if TOO_LARGE in code:
        message = "training used 3,214 MB of memory; a run may use 3,072 MB."
        failure = {"kind": "oom", "message": message, "lines": [], "advice": "Make it smaller: depth, width, batch or sequence."}
        return replace(RESULT, state="crashed", val_bpb=None, failure=failure, fault="code", ended_in="running", peak_memory_mb=3214.0)
    value = 1.6 - sum(gain for text, gain in GAINS.items() if text in code) + dice.gauss(0, NOISE)
    protocol.write_hidden(directory, value + 0.2 + dice.gauss(0, NOISE / 5))
    curve = [[n / 60, value * 2.05 + 3.6 * math.exp(-6 * n / 60) + dice.gauss(0, 0.02)] for n in range(1, 61)]
    hashes = RESULT.hashes | {"weights": directory.parts[-2]}
    steps = round(500 + dice.gauss(0, 4))
    return replace(
        RESULT, val_bpb=value, hashes=hashes, steps=steps, curve=curve, peak_memory_mb=612.0, weights_mb=0.98, ended_in="scoring"
    )


if __name__ == "__main__":
    for line in sys.stdin:
        if os.fork() == 0:
            run(Path(line.rstrip("\n")), float(sys.argv[1]))
            os._exit(0)
        sys.stdout.write(json.dumps({"run": line.rstrip("\n")}) + "\n")
        sys.stdout.flush()
