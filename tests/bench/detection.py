"""How likely the scorer is to catch a look-ahead, and what one could gain: the table that `trainer.score` quotes.

The stock model is trained for `BUDGET_S` through the real launcher. A cheat that knows the next token at the n positions
of highest loss gains the whole loss there, which is the most that n positions can give; the scorer's own draws of decoys
decide how often it is caught.

    python -m tests.bench.detection
"""

import importlib.util
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

import trainer
from trainer import client, prepare, protocol, score

BUDGET_S = 20.0  # CPU seconds: less training leaves more loss to gain
DRAWS = 2000
TOUCHED = (1, 2, 4, 8, 16, 44, 128, 294, 1024)
NOISE = 0.0013  # bits per byte between two runs of one seed
PROFILE = prepare.PROFILES["cpu"]


def _train(run: Path) -> torch.nn.Module:
    """The stock model after a short training, as the launcher keeps it for a scorer on another machine."""
    stock = Path(trainer.__file__).with_name("train.py")
    (run / protocol.CODE).mkdir(parents=True)
    (run / protocol.CODE / "train.py").write_bytes(stock.read_bytes())
    protocol.write_json(run / protocol.SPEC, protocol.Spec(run.name, 1, PROFILE.name, BUDGET_S, 1, str(prepare.prepare(PROFILE.name))))
    subprocess.run([sys.executable, "-m", "trainer.launch", str(run), "--stage", "train"], check=True)
    spec = importlib.util.spec_from_file_location("bench_detection", stock)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    model: torch.nn.Module = module.build_model(protocol.read_json(run / protocol.SUBMISSION / "config.json"))
    model.load_state_dict(load_file(run / protocol.SUBMISSION / client.WEIGHTS))
    return model.eval()


def _gains(model: torch.nn.Module, text: "score._Text") -> np.ndarray[Any, Any]:
    """What knowing the target at each position (rows, positions) would take off the metric, in bits per byte of the text."""
    logp = []
    with torch.inference_mode():
        for start in range(0, len(text.contexts), PROFILE.eval_rows):
            rows = slice(start, start + PROFILE.eval_rows)
            logp.append(score._log_probabilities(model(torch.from_numpy(text.contexts[rows])).float(), text.targets[rows]))
    counted = (text.widths > 0) & (np.arange(PROFILE.seq_len) < PROFILE.seq_len - 1)  # the last target is in no context
    return np.where(counted, -np.concatenate(logp), 0.0) / math.log(2) / text.widths.sum()


def _looks(contexts: np.ndarray[Any, Any], validation: int) -> list[list[tuple[int, int]]]:
    """The (row, position) at which each draw of decoys sees another future."""
    draws = []
    for _ in range(DRAWS):
        questions = score._checks(contexts, validation, PROFILE.eval_rows)
        draws.append([(question.row, question.checked - 1) for question in questions if 0 < question.checked < PROFILE.seq_len])
    return draws


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Rows of positions touched, their share, caught as measured, caught by the formula, gain."""
    data = prepare.prepare(PROFILE.name)
    val = score._read(data, "val", PROFILE.seq_len, PROFILE.eval_bytes)
    test = score._read(data, "test", PROFILE.seq_len, PROFILE.eval_bytes // 2)
    gains = _gains(_train(scratch / "run"), val)
    draws = _looks(np.concatenate([val.contexts, test.contexts]), len(val.contexts))
    order, rows = np.argsort(-gains, axis=None), []
    for touched in TOUCHED:
        cheated = set(zip(*(index.tolist() for index in np.unravel_index(order[:touched], gains.shape))))
        caught = sum(not cheated.isdisjoint(draw) for draw in draws) / DRAWS
        share = touched / gains.size
        gain = gains.flat[order[:touched]].sum()
        formula = 1 - (1 - share) ** score.DECOYS
        rows.append((f"{touched:,} of {gains.size:,}", f"{share:.3%}", f"{caught:.2%}", f"{formula:.2%}", f"{gain:.5f}"))
    return rows


def main() -> None:
    title = f"A look-ahead at the positions of highest loss, {DRAWS} draws; the noise between two runs is {NOISE} bits per byte"
    table = Table("positions", "share f", "caught", f"1-(1-f)^{score.DECOYS}", "gain, bits per byte", title=title)
    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch)):
            table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
