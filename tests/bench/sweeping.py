"""What a sweep finds against random search at equal trials, with real trainings of the CPU profile.

Three learning rates, each over two orders of magnitude. Few trials of 2 s by default; $AUTORESEARCH_BENCH_LONG takes 60 of 20 s.
"""

import contextlib
import os
import statistics
import time
from pathlib import Path

from autoresearch_mcp.server.answers import Range
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Sampler
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import stop_runner

RATES = {"EMBEDDING_LR": 0.6, "UNEMBEDDING_LR": 0.004, "MATRIX_LR": 0.04}
SHORT, LONG = (16, 2.0), (60, 20.0)  # trials of each, and CPU seconds of a training


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Return the rows."""
    trials, budget_s = LONG if os.environ.get("AUTORESEARCH_BENCH_LONG") else SHORT
    ours, yardstick = (_swept(scratch / f"sweep-{sampler}", sampler, trials, budget_s) for sampler in _SAMPLERS)
    of = f"random search, {trials} x {budget_s:g} s"
    best, median = (min(ours), min(yardstick)), (statistics.median(ours[-trials // 2 :]), statistics.median(yardstick[-trials // 2 :]))
    return [
        ("best val_bpb of a sweep (TPE)", f"{best[0]:.4f}", f"{best[1]:.4f} {of}", f"{best[0] / best[1]:.3f}", "1"),
        ("  median of its later half", f"{median[0]:.4f}", f"{median[1]:.4f} likewise", f"{median[0] / median[1]:.3f}", "< 1"),
    ]


_SAMPLERS: tuple[Sampler, Sampler] = ("tpe", "random")


def _swept(root: Path, sampler: Sampler, trials: int, budget_s: float) -> list[float]:
    """Return the metrics of a sweep's trials that finished, in their order."""
    create_lab(root, profile="cpu", budget_s=budget_s)
    over = {name: Range(low=now / 10, high=now * 10, log=True) for name, now in RATES.items()}
    with contextlib.closing(Lab(root)) as lab, contextlib.closing(Ledger(LabPaths(root).ledger)) as ledger:
        id = lab.launch_sweep("champion", "bench", over, trials, 2, sampler=sampler).id
        while lab.sweeps([id])[0].state == "open":
            lab.states([id])  # wakes the runner, were it gone
            time.sleep(0.5)
        experiments = [trial.experiment for trial in ledger.trials(id) if trial.experiment]
        ended = ledger.ended(experiments)
    stop_runner(LabPaths(root).state)
    finished = [ended[each]["val_bpb"] for each in experiments if ended[each]["val_bpb"] is not None]
    assert finished, f"no trial of the sweep by {sampler} finished: {[row['failure'] for row in ended.values()][:1]}"
    return finished
