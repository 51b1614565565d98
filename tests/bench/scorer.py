"""Measures what a scorer of the owner's adds to a run: from the end of the training to the result, by predictions."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.protocol import Scoring

ROWS, CLASSES, ROUNDS = 10_000, 10, 5
TRAIN = f"import numpy as np\np = np.random.default_rng(0).random(({2 * ROWS}, {CLASSES}))\nnp.save('predictions.npy', p / p.sum(1, keepdims=True))\n"


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
        run = root / str(number)
        (run / protocol.CODE).mkdir(parents=True)
        (run / protocol.CODE / "train.py").write_text(TRAIN, encoding="utf-8")
        scoring = Scoring("predictions", str(root / "hidden"))
        protocol.write_json(run / protocol.SPEC, protocol.Spec(str(number), 0, "tiny", 30.0, 1, "", metric="log loss", scoring=scoring))
        parent.stdin.write(f"{run}\n")
        parent.stdin.flush()
        subprocess.run(["tail", "--pid", str(json.loads(parent.stdout.readline())["pid"]), "-f", "/dev/null"], check=True)
        result = protocol.read_result(run)
        assert result is not None and result.state == "finished", result
        times.append(result.timings["score_s"])
    parent.stdin.close()
    parent.wait()
    parent.stdout.close()
    return [(f"scoring {2 * ROWS:,} predictions of {CLASSES} classes", f"{statistics.median(times):.2f} s", "nothing", "", "2 s")]
