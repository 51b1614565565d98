"""How likely the scorer is to catch a look-ahead, and what one could gain: the table that `autoresearch_mcp.trainer.score` quotes.

The stock model is trained for `BUDGET_S` through the real launcher. A cheat that knows the next token at n positions gains the whole
loss there, and takes those that gain most for the risk; the scorer's own draws of decoys, which go by what was answered, decide how
often it is caught.

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

from autoresearch_mcp import trainer
from autoresearch_mcp.trainer import client, model_server, prepare, protocol, score

BUDGET_S = 20.0  # CPU seconds: less training leaves more loss to gain
DRAWS = 300
TOUCHED = (1, 2, 4, 8, 16, 44, 128, 294, 1024)
NOISE = 0.0013  # bits per byte between two runs of one seed
PROFILE = prepare.PROFILES["cpu"]


def _train(run: Path) -> torch.nn.Module:
    """The stock model after a short training, as the launcher keeps it for a scorer on another machine."""
    stock = Path(trainer.__file__).with_name("train.py")
    (run / protocol.CODE).mkdir(parents=True)
    (run / protocol.CODE / "train.py").write_bytes(stock.read_bytes())
    protocol.write_json(run / protocol.SPEC, protocol.Spec(run.name, 1, PROFILE.name, BUDGET_S, 1, str(prepare.prepare(PROFILE.name))))
    subprocess.run([sys.executable, "-m", "autoresearch_mcp.trainer.launch", str(run), "--stage", "train"], check=True)
    spec = importlib.util.spec_from_file_location("bench_detection", stock)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    model: torch.nn.Module = module.build_model(protocol.read_json(run / protocol.SUBMISSION / "config.json"))
    model.load_state_dict(load_file(run / protocol.SUBMISSION / client.WEIGHTS))
    return model.eval()


def _answers(model: torch.nn.Module, text: "score._Text") -> np.ndarray[Any, Any]:
    """Log-probability in nats of each target (rows, positions)."""
    logp = []
    with torch.inference_mode():
        for start in range(0, len(text.contexts), PROFILE.eval_rows):
            rows = slice(start, start + PROFILE.eval_rows)
            logp.append(model_server.log_probabilities(model(torch.from_numpy(text.contexts[rows])).float(), text.targets[rows]))
    return np.concatenate(logp)


def measure(scratch: Path) -> list[tuple[str, str, str, str, str, str]]:
    """Rows of positions touched, gain, caught in a run as drawn, by the formula, three of three uncaught, and what even draws would catch."""
    data = prepare.prepare(PROFILE.name)
    val = score._read(data, "val", PROFILE.seq_len, PROFILE.eval_bytes)
    answers = _answers(_train(scratch / "run"), val)
    counted = (val.widths > 0) & (np.arange(PROFILE.seq_len) < PROFILE.seq_len - 1)  # the last target is in no context
    gains = np.where(counted, -answers, 0.0) / math.log(2) / val.widths.sum()  # of knowing a target, in bits per byte of the text
    risk = np.pad(score._shares(val, np.where(counted, 0.0, answers), PROFILE.vocab_size), ((0, 0), (0, 1)), constant_values=np.inf)
    order, rows = np.argsort(-gains / risk, axis=None), []
    for touched in TOUCHED:
        cheated = np.zeros(gains.shape, bool)
        cheated.flat[order[:touched]] = True
        shares = score._shares(val, np.where(cheated, 0.0, answers), PROFILE.vocab_size)
        caught = 0
        for _ in range(DRAWS):
            questions = score._checks(val.contexts, shares, PROFILE.eval_rows)
            caught += any(cheated[q.row, q.checked - 1] for q in questions if 0 < q.checked < PROFILE.seq_len)
        missed = (1 - shares[cheated[:, :-1]].sum()) ** score.DECOYS
        even = 1 - (1 - touched / shares.size) ** score.DECOYS
        gain = gains[cheated].sum()
        rows.append((f"{touched:,}", f"{gain:.5f}", f"{caught / DRAWS:.1%}", f"{1 - missed:.1%}", f"{missed**3:.1%}", f"{even:.1%}"))
    return rows


def main() -> None:
    title = (
        f"A look-ahead at the n positions that gain most for the risk, {DRAWS} draws; the noise between two runs is {NOISE} bits per byte"
    )
    table = Table("n", "gain, bits per byte", "caught in a run", "by the formula", "three runs pass", "caught by even draws", title=title)
    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch)):
            table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
