"""The gate's error rates: how often it promotes what is no better, finds what is, and at which price, beside what others do.

Campaigns of 100 candidates are simulated launch by launch, with the product's own order of launches, noise and rule (see `campaigns`).
The yardsticks train a candidate's replicates in a row, after the champion's, as they are used in practice.

    python -m tests.bench.gate
"""

import itertools
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from tests.bench import drift
from tests.bench.campaigns import Campaign, World, repeat, simulate

CAMPAIGNS = int(os.environ.get("AUTORESEARCH_BENCH_CAMPAIGNS") or 150)  # for each rate of false promotions; a tenth for the others
GAINS = (0.5, 1.0, 2.0, 3.0)  # in standard deviations
EACH = 100

MEASURED = World(fast=0.69)
WORLDS: dict[str, tuple[World, int]] = {  # with the number of candidates
    "no drift": (World(), EACH),
    "measured drift": (MEASURED, EACH),
    "and slow drift of 10 %": (World(fast=0.59, slow=0.1), EACH),
    "and slow drift of 30 %": (World(fast=0.39, slow=0.3), EACH),
    "t5 noise": (World(tails=5), EACH),
    "candidates' variance doubled": (World(spread=math.sqrt(2)), EACH),
    "a young lab, first 20 candidates": (World(history=0), 20),
}
CHEATS: dict[str, dict[str, Any]] = {
    "asks after every replicate, drops none": {"cheat": "never drops"},
    "16 near-copies (the first one's replicates count)": {"cheat": "never drops", "authors": 16},
    "cancels what looks bad": {"cheat": "cancels"},
    "has slow runs set aside": {"cheat": "sleeps"},
    "trains the champion when the machine is slow": {"cheat": "champions"},
    "splits its work over 8 authors, 2 slots": {"authors": 8, "slots": 2},
    "one worker alone, 1 slot": {"slots": 1},
}


@dataclass(frozen=True)
class Rates:
    """What campaigns came to.

    Attributes:
        promoted: share of the candidates, in per cent.
        worst: the 95th percentile over campaigns.
        trainings: of a candidate.
        champions: trainings of the champion, for each candidate.
        error: standard error of `promoted`.
    """

    promoted: float
    worst: float
    trainings: float
    champions: float
    error: float

    @classmethod
    def of(cls, campaigns: Sequence[Campaign]) -> "Rates":
        shares = np.array([100 * each.promoted / each.decided for each in campaigns])
        decided = sum(each.decided for each in campaigns)
        return cls(
            float(shares.mean()),
            float(np.quantile(shares, 0.95)),
            sum(each.trainings for each in campaigns) / decided,
            sum(each.champions for each in campaigns) / decided,
            float(shares.std(ddof=1) / math.sqrt(len(shares))),
        )


def rates(world: World, gain: float, candidates: int, campaigns: int, **policy: Any) -> Rates:
    """Return what the gate does with candidates of one true gain."""
    return Rates.of(repeat(campaigns, partial(_campaign, world, gain, candidates, policy)))


def _campaign(world: World, gain: float, candidates: int, policy: dict[str, Any], rng: random.Random) -> Campaign:
    return simulate(world, gain, candidates, rng, **policy)


def lower_is_better(ours: Any, theirs: Any) -> Any:
    return ours[:, 0] < theirs[0]


def two_sd(ours: Any, theirs: Any) -> Any:
    spread = np.sqrt((ours.var(1, ddof=1) + theirs.var(ddof=1)) / 2)
    return theirs.mean() - ours.mean(1) >= 2 * spread


def welch(ours: Any, theirs: Any) -> Any:
    return stats.ttest_ind(ours, np.broadcast_to(theirs, ours.shape), axis=1, equal_var=False, alternative="less").pvalue <= 0.05


def paired_bootstrap(ours: Any, theirs: Any) -> Any:
    pairs = np.array(list(itertools.product(range(5), repeat=5)))
    return ((theirs[None] - ours)[:, pairs].mean(2) <= 0).mean(1) <= 0.05


Yardstick = Callable[[Any, Any], Any]
YARDSTICKS: dict[str, tuple[Yardstick, int]] = {  # with the replicates of each side
    "lower is better, 1 run each": (lower_is_better, 1),
    "3 seeds each, better by 2 sd": (two_sd, 3),
    "Welch's test, 3 against 3, p <= 0.05": (welch, 3),
    "paired bootstrap, 5 pairs, 95 %": (paired_bootstrap, 5),
}


def yardstick(name: str, world: World, gain: float, campaigns: int) -> Rates:
    """Return what a usual rule does with candidates of one true gain."""
    rule, replicates = YARDSTICKS[name]

    def one(rng: random.Random) -> Campaign:
        noise = world.noise(rng)
        values = np.array([next(noise) for _ in range((EACH + 1) * replicates)]).reshape(EACH + 1, replicates)
        passed = rule(world.spread * values[1:] - gain, values[0])
        return Campaign(int(passed.sum()), EACH, EACH * replicates, replicates)

    return Rates.of(repeat(campaigns, one))


def characteristics() -> Iterator[Table]:
    """Compute everything, on all cores, and yield the tables."""
    few = max(2, CAMPAIGNS // 20)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        gate = {
            name: [pool.submit(rates, world, gain, each, CAMPAIGNS if not gain else few * EACH // each) for gain in (0.0, *GAINS)]
            for name, (world, each) in WORLDS.items()
        }
        usual = {
            (name, where): [pool.submit(yardstick, name, WORLDS[where][0], gain, CAMPAIGNS) for gain in (0.0, *GAINS)]
            for name in YARDSTICKS
            for where in ("no drift", "measured drift")
        }
        cheats = {name: pool.submit(rates, MEASURED, 0.0, EACH, CAMPAIGNS // 2, **policy) for name, policy in CHEATS.items()}
        yield _table("The gate, in the lab's own order of launches", gate)
        yield _table("What others do, replicates in a row", {f"{name}; {where}": row for (name, where), row in usual.items()})
        table = Table(
            "cheat, with measured drift", "false per 100 (95 % of campaigns below)", title="Cheats, with candidates that are no better"
        )
        for name, future in cheats.items():
            table.add_row(name, _false(future.result()))
        yield table
    yield from drift.tables()


def _table(title: str, rows: dict[str, list[Future[Rates]]]) -> Table:
    table = Table(
        "noise", "false per 100 (95 % of campaigns below)", *(f"found at {gain:g} sd" for gain in GAINS), "trainings", title=title
    )
    for name, futures in rows.items():
        none, *better = [future.result() for future in futures]
        price = f"{none.trainings + none.champions:.1f} without gain, {better[2].trainings + better[2].champions:.1f} at 2 sd"
        table.add_row(name, _false(none), *(f"{each.promoted:.0f} %" for each in better), price)
    return table


def _false(found: Rates) -> str:
    return f"{found.promoted:.2f} ± {found.error:.2f} ({found.worst:.0f})"


def measure(scratch: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Print the tables, and yield the rows of the aims."""
    console = Console(width=160)
    for table in characteristics():
        console.print(table)
    few = max(2, CAMPAIGNS // 20)
    ours, usual = rates(MEASURED, 0.0, EACH, CAMPAIGNS), yardstick("Welch's test, 3 against 3, p <= 0.05", MEASURED, 0.0, CAMPAIGNS)
    ratio = f"{ours.promoted / max(usual.promoted, 1e-9):.3f}"
    yield "gate: false promotions per 100, measured drift", f"{ours.promoted:.2f}", f"{usual.promoted:.2f} (Welch, 3 each)", ratio, "<= 0.5"
    ours, usual = rates(MEASURED, 2.0, EACH, few), yardstick("Welch's test, 3 against 3, p <= 0.05", MEASURED, 2.0, CAMPAIGNS)
    ratio = f"{ours.promoted / usual.promoted:.2f}"
    yield "gate: found of gains of 2 sd", f"{ours.promoted:.0f} %", f"{usual.promoted:.0f} % (Welch, 3 each)", ratio, ">= 90 %"


if __name__ == "__main__":
    for each in characteristics():
        Console(width=160).print(each)
