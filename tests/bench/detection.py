"""How far a look ahead gets: the strongest cheat that we know, against the scorer's draws and the gate.

The stock model is trained for `BUDGET_S` through the real launcher. A cheat looks ahead at some positions of both splits, and gets from
each any log-probability that it likes, up to certainty. It knows how the scorer draws, and takes what gains most for the risk. It stays
unseen in a run if no decoy of either split falls on one of its positions, and must stay so in every replicate that the gate asks for.
Each row of the table is the best number of positions for one way to cheat and one noise, with the chance that the gate promotes it.

    python -m tests.bench.detection
"""

import importlib.util
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from autoresearch_mcp import trainer
from autoresearch_mcp.server.gate.rule import Noise, Rules, Run, decide
from autoresearch_mcp.trainer import checks, client, model_server, prepare, protocol, score

Array = np.ndarray[Any, Any]

BUDGET_S = 20.0  # CPU seconds: less training leaves more loss to gain
PROFILE = prepare.PROFILES["cpu"]
POSITIONS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512, 1024)
NOISES = (0.0013, 0.002, 0.003, 0.0054)  # bits per byte between replicates: of one seed, of quiet labs, as measured in a busy one
LEVELS = (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0, math.inf)  # nats above a token's plain frequency that a look ahead may go for
CAMPAIGNS = 1000
CHAMPION = 16  # its replicates
LUCK_NU = 60  # degrees of freedom of the lab's noise
CORRELATION = 0.95  # of a replicate's luck on the two splits
HIDDEN = 0.6  # share of the gain on validation that the cheat takes on the hidden split: half is needed, and luck moves it


@dataclass(frozen=True)
class Look:
    """A choice of positions to look ahead at, on one split.

    Attributes:
        cheated: the answers (rows, positions).
        chosen: whether a position is one of them (rows, positions).
        gain: bits per byte.
        seen: chance that one decoy falls on one of them.
    """

    cheated: Array
    chosen: Array
    gain: float
    seen: float


def looks(text: checks.Text, answers: Array, vocab_size: int, allowed: Array, highest: float = math.inf) -> Iterator[Look]:
    """Yield the best choices of more and more positions.

    Args:
        text: the split.
        answers: what the honest model says (rows, positions).
        vocab_size: of the model.
        allowed: where the cheat looks ahead at most (rows, positions).
        highest: nats above a token's plain frequency that it goes for at most.
    """
    testable = text.testable & allowed
    honest = checks.shares(text, answers, vocab_size)
    counts = np.bincount(text.targets.ravel(), minlength=vocab_size) + 1.0
    plain = np.log(counts / counts.sum())[text.targets]
    weight = np.where(text.testable, np.maximum(0.0, answers - plain), 0.0).sum()
    best, ratio = answers.copy(), np.zeros(answers.shape)
    for level in LEVELS:
        wanted = np.maximum(answers, np.minimum(0.0, plain + min(level, highest)))
        risk = checks.EVEN / text.testable.sum() + (1 - checks.EVEN) * np.maximum(0.0, wanted - plain) / weight
        worth = np.where(testable, (wanted - answers) / risk, 0.0)
        best, ratio = np.where(worth > ratio, wanted, best), np.maximum(worth, ratio)
    order = np.argsort(-ratio, axis=None)
    for count in POSITIONS:
        chosen = np.zeros(honest.shape, bool)
        chosen.flat[order[:count]] = True
        chosen &= ratio > 0
        cheated = np.where(chosen, best, answers)
        gain = score.bits_per_byte(text, answers) - score.bits_per_byte(text, cheated)
        yield Look(cheated, chosen, gain, float(checks.shares(text, cheated, vocab_size)[chosen].sum()))


def unseen(validation: Look, hidden: Look, decoys: int) -> float:
    """Return the chance that a run passes the scorer."""
    return float((1 - validation.seen) ** decoys * (1 - hidden.seen) ** (decoys // 2))


def promoted(gain: float, passes: float, every: int = 1) -> float:
    """Return the chance that the gate promotes a cheat that asks for replicates as long as it may. One finding ends it.

    Args:
        gain: on validation, in standard deviations between replicates, where it cheats.
        passes: the chance that such a replicate is unseen.
        every: it cheats in one replicate of so many, drawn by chance.
    """
    random, rules, total = np.random.default_rng(7), Rules(), 0.0
    noise = Noise(1.0, LUCK_NU)
    for _ in range(CAMPAIGNS):
        champion = [_run(random, 0.0) for _ in range(CHAMPION)]
        candidate: list[Run] = []
        alive = 1.0
        while len(candidate) < rules.cap:
            cheats = random.integers(every) == 0
            alive *= passes if cheats else 1.0
            candidate.append(_run(random, gain if cheats else 0.0))
            decision = decide(candidate, champion, noise, rules)
            if decision.verdict == "promote":
                total += alive
            if decision.final:
                break
    return total / CAMPAIGNS


def _run(random: np.random.Generator, gain: float) -> Run:
    shared, own = random.normal(size=2)
    return Run(shared - gain, CORRELATION * shared + math.sqrt(1 - CORRELATION**2) * own - HIDDEN * gain)


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


def _answers(model: torch.nn.Module, text: checks.Text) -> Array:
    """Log-probability in nats of each target (rows, positions)."""
    logp = []
    with torch.inference_mode():
        for start in range(0, len(text.contexts), PROFILE.eval_rows):
            rows = slice(start, start + PROFILE.eval_rows)
            logp.append(model_server.log_probabilities(model(torch.from_numpy(text.contexts[rows])).float(), text.targets[rows]))
    return np.concatenate(logp)


def ways(text: checks.Text) -> dict[str, tuple[Array, float, int]]:
    """Return ways to cheat: where, up to which level, in one replicate of how many."""
    everywhere = np.ones(text.contexts.shape, bool)
    late = everywhere & (np.arange(text.contexts.shape[1]) >= text.contexts.shape[1] * 3 // 4)
    rows = everywhere & (text.contexts[:, :1] % 5 == 0)
    return {
        "anywhere, as likely as it likes": (everywhere, math.inf, 1),
        "anywhere, from a reserve": (everywhere, 0.0, 1),
        "late in the row": (late, math.inf, 1),
        "in every 5th row, from a reserve": (rows, 0.0, 1),
        "in one run of two": (everywhere, math.inf, 2),
        "in one run of four": (everywhere, math.inf, 4),
    }


def measure(run: Path) -> list[tuple[str, ...]]:
    """Return the rows of the table.

    Args:
        run: where to train. What was trained there before is used again.
    """
    data, model = prepare.prepare(PROFILE.name), _train(run)
    sizes = {"val": PROFILE.eval_bytes, "test": PROFILE.eval_bytes // 2}
    texts = [score.read_text(data, split, PROFILE.seq_len, size) for split, size in sizes.items()]
    answers = [_answers(model, text) for text in texts]
    table = []
    for way, (_, highest, every) in ways(texts[0]).items():
        choices = []
        for text, given in zip(texts, answers):
            allowed = ways(text)[way][0]
            choices.append(list(looks(text, given, PROFILE.vocab_size, allowed, highest)))
        for noise in NOISES:
            best: tuple[float, tuple[str, ...]] = (-1.0, ())
            for validation in choices[0]:
                hidden = next((each for each in choices[1] if each.gain >= HIDDEN * validation.gain), choices[1][-1])
                passes = unseen(validation, hidden, PROFILE.decoys)
                if validation.gain > 12 * noise * every or (best[0] > 0 and passes**3 < 1e-6):
                    continue
                chance = promoted(validation.gain / noise, passes, every)
                cells = f"{int(validation.chosen.sum()):,}", f"{validation.gain:.4f}", f"{1 - passes:.0%}", f"{chance:.2%}"
                best = max(best, (chance, (way, f"{noise:.4f}", *cells)))
            table.append(best[1])
    return table


def main() -> None:
    title = f"Look-aheads at the best number of positions (of 54,000); without any, luck promotes {promoted(0.0, 1.0):.2%}"
    table = Table("where", "noise", "positions", "gain", "seen in a run", "promoted", title=title)
    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch, "run")):
            table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
