"""Measures what a scorer of the owner's adds to a run: from the end of the training to the result, by predictions."""

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.protocol import Scoring

ROWS, CLASSES, ROUNDS = 10_000, 10, 5
TRAIN = f"""import numpy as np
p = np.random.default_rng(0).random(({2 * ROWS}, {CLASSES}))
np.save('predictions.npy', p / p.sum(1, keepdims=True))
print('log loss: 1')
"""


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Return the seconds of scoring, as the median of some runs one after the other, from a warm parent."""
    root = scratch / "scorer"
    for part in ("validation", "test"):
        (root / "hidden" / part).mkdir(parents=True)
        np.save(root / "hidden" / part / "answers.npy", np.random.default_rng(1).integers(CLASSES, size=ROWS))
    times = []
    parent = subprocess.Popen(
        [sys.executable, "-m", "autoresearch_mcp.trainer.launch", "--warm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin and parent.stdout
    for number in range(ROUNDS):
        run = _run(root / str(number), Scoring("predictions", str(root / "hidden")))
        parent.stdin.write(f"{run}\n")
        parent.stdin.flush()
        subprocess.run(["tail", "--pid", str(json.loads(parent.stdout.readline())["pid"]), "-f", "/dev/null"], check=True)
        result = protocol.read_result(run)
        assert result is not None and result.state == "finished", result
        times.append(result.timings["score_s"])
    parent.stdin.close()
    parent.wait()
    parent.stdout.close()
    what = f"scoring {2 * ROWS:,} predictions of {CLASSES} classes"
    printed, scored = (
        statistics.median(_cpu_s(root / f"{kind}-{n}", kind, root / "hidden") for n in range(3)) for kind in ("none", "predictions")
    )
    return [
        (what, f"{statistics.median(times):.2f} s", "nothing", "", "2 s"),
        (f"{what}: CPU seconds of a run", f"{scored:.2f} s", f"{printed:.2f} s where the code prints its metric", "", ""),
    ]


def _run(run: Path, scoring: Scoring | None) -> Path:
    (run / protocol.CODE).mkdir(parents=True)
    (run / protocol.CODE / "train.py").write_text(TRAIN, encoding="utf-8")
    protocol.write_json(run / protocol.SPEC, protocol.Spec(run.name, 0, "tiny", 30.0, 1, "", metric="log loss", scoring=scoring))
    return run


def _cpu_s(run: Path, kind: str, hidden: Path) -> float:
    """Return the CPU seconds of a whole run, its launcher and its scorer included."""
    _run(run, None if kind == "none" else Scoring("predictions", str(hidden)))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "autoresearch_mcp.trainer.launch", str(run)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = protocol.read_result(run)
    assert result is not None and result.state == "finished", result
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
