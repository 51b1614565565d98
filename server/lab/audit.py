"""What a lab's own champion says of the gate: the noise between equal trainings, how much of it is drift, and who would have passed."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_mcp.server.gate.drift import explained_by_steps
from autoresearch_mcp.server.gate.evidence import counted, for_display, metrics
from autoresearch_mcp.server.gate.judge import rules_of
from autoresearch_mcp.server.gate.rule import Run
from autoresearch_mcp.server.gate.spread import mean, sd
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.replays import FEWEST, ORDERS, Order, promoted
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.models import Experiment, Score
from autoresearch_mcp.server.pace import SPARED

LAGS = 5
GAINS = (0.5, 1.0, 2.0, 3.0)  # in standard deviations, whose power is told
REPLAYS = 400
_FEWEST_FOR_NOISE = 3


@dataclass(frozen=True)
class NoiseReport:
    """How equal trainings differ.

    Attributes:
        runs: how many.
        mean: of their metrics.
        sd: their standard deviation.
        sd_low: lower end of its 95 % interval.
        sd_high: upper end.
        autocorrelation: by lag in the order of starts, from 1 on: what a run tells of those started after it.
        by_chance: how far an autocorrelation of runs without drift lies from 0 in 95 of 100 cases.
        drift_share: share of the variance that neighbours in time have in common.
        steps_share: share of the variance that the number of steps explains; None where nobody counted them, or they are all equal.
    """

    runs: int
    mean: float
    sd: float
    sd_low: float
    sd_high: float
    autocorrelation: tuple[float, ...]
    by_chance: float
    drift_share: float
    steps_share: float | None

    @classmethod
    def of(cls, scores: Sequence[Score]) -> "NoiseReport":
        """Measure it on finished trainings of one commit under equal conditions.

        Args:
            scores: at least 3, in the order of their starts.
        """
        from scipy.special import chdtri

        values = metrics(scores)
        degrees, spread = len(values) - 1, sd(values) or 0.0
        low, high = (spread * math.sqrt(degrees / float(chdtri(degrees, tail))) for tail in (0.025, 0.975))
        return cls(
            runs=len(values),
            mean=mean(values),
            sd=spread,
            sd_low=low,
            sd_high=high,
            autocorrelation=tuple(autocorrelation(values, lag) for lag in range(1, min(LAGS, degrees - 1) + 1)),
            by_chance=1.96 / math.sqrt(len(values)),
            drift_share=shared_by_neighbours(values),
            steps_share=explained_by_steps(scores),
        )


def autocorrelation(values: Sequence[float], lag: int) -> float:
    """Return how a value goes with the one `lag` places on: 1 in step, 0 not at all. It is 0 where nothing varies."""
    centre = mean(values)
    around = [value - centre for value in values]
    total = math.fsum(each * each for each in around)
    return math.fsum(a * b for a, b in zip(around, around[lag:])) / total if total else 0.0


def shared_by_neighbours(values: Sequence[float]) -> float:
    """Return the share of the variance that neighbours have in common, 0 to 1: one minus von Neumann's ratio over 2 (1941)."""
    variance = (sd(values) or 0.0) ** 2
    if not variance:
        return 0.0
    between = math.fsum((b - a) ** 2 for a, b in itertools.pairwise(values)) / (len(values) - 1) / 2
    return min(max(0.0, 1 - between / variance), 1.0)


@dataclass(frozen=True)
class Audit:
    """What the champion's own replicates say of a lab's gate.

    Attributes:
        commit: the champion's.
        runs: of it, that count under the conditions of now.
        noise: between them; None where there are fewer than 3.
        replays: of each kind, that the shares below come from; 0 where there are too few runs.
        missing: runs that are missing for replays.
        false: share of replays that promoted the champion over itself, by the order of the starts.
        power: share of replays that promoted, by gain in standard deviations, with starts in turn.
        spared: trainings that `[training] stop_hopeless` would have stopped and spared, to measure what it loses.
        spared_promoted: those of them whose commit was promoted later.
    """

    commit: str
    runs: int
    noise: NoiseReport | None
    replays: int
    missing: int
    false: dict[Order, float]
    power: dict[float, float]
    spared: int
    spared_promoted: int


class Auditing:
    """Checks a lab's gate on its own champion. It trains nothing."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status

    def audit(self, replays: int = REPLAYS, report: Callable[[str], Any] = lambda text: None) -> Audit:
        """Measure the noise between the champion's replicates, and ask the gate about the champion against itself.

        Args:
            replays: how often, of each kind.
            report: is told what is computed, as this takes seconds.

        Raises:
            LabError: the ledger's, or `lake_unavailable`.
        """
        core = self._core
        champion, conditions = core.repo.champion(), self._status.conditions()
        scores = counted(core.ledger.scores(champion), for_display(core.settings.promotion), conditions)
        scores.sort(key=lambda score: score.started_at or score.finished_at)
        spread = NoiseReport.of(scores) if len(scores) >= _FEWEST_FOR_NOISE else None
        enough = len(scores) >= FEWEST and spread is not None and spread.sd > 0
        false: dict[Order, float] = {}
        power: dict[float, float] = {}
        pooled = self._status.pooled_noise(conditions)
        if enough and spread is not None and pooled is not None:
            runs = [Run(score.metric, score.test_bpb) for score in scores if score.metric is not None]
            ask = functools.partial(promoted, runs, pooled, rules_of(core.settings.promotion), replays=replays)
            for order in ORDERS:
                report(f"the champion against itself, {order}")
                false[order] = ask(order=order, gain=0.0)
            for gain in GAINS:
                report(f"the champion against itself made better by {gain:g} sd")
                power[gain] = ask(order="in turn", gain=gain * pooled.sd)
        spared = self._spared()
        winners = {promotion.commit for promotion in core.ledger.promotions()}
        return Audit(
            commit=champion,
            runs=len(scores),
            noise=spread,
            replays=replays if false else 0,
            missing=max(0, FEWEST - len(scores)),
            false=false,
            power=power,
            spared=len(spared),
            spared_promoted=sum(e.commit in winners for e in spared),
        )

    def _spared(self) -> list[Experiment]:
        return [e for e in self._core.view.records("experiments") if isinstance(e, Experiment) and SPARED in e.details]
