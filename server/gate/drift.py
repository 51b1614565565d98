"""Whether the machine holds still: a control chart over the champion's replicates in the order of their starts.

The lab trains the champion at every 9th launch, so what varies from one launch to the next averages out, and the order of launches keeps it
out of the comparison. What moves the champion's replicates over a longer time doesn't average out, and passes for a gain.

The chart is an exponentially weighted moving average (weight 0.2) of each replicate's distance from those before it, as a normal score: the
replicates before give mean and spread, and Student's t says how likely the distance is (Quesenberry, Journal of Quality Technology 23, 1991).
Without drift these scores are independent standard normal numbers, whatever the noise is. So the limit of 3 standard errors alarms once
in 570 replicates (`ALARMS_EVERY`, which a test computes). After an alarm the chart starts again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.gate.boundary import M_CAP
from autoresearch_mcp.server.gate.evidence import metrics
from autoresearch_mcp.server.gate.spread import mean, sd
from autoresearch_mcp.server.models import Score

LIMIT = 3.0  # standard errors of the average
ALARMS_EVERY = 570  # replicates without drift, on average
_WEIGHT = 0.2
_FAR = 8.0  # the largest normal score: beyond it lies nothing that floating point can tell apart
_ROUNDING = 1e-12  # share of a mean that is no difference


@dataclass(frozen=True)
class Drift:
    """How steady the champion's replicates are.

    Attributes:
        chart: how far the average went among the newest replicates that the gate compares with, in shares of its limit: 1 is an alarm.
        steps_sd: standard deviation of the number of steps that equal code makes, as a share of it; None where nobody counted them.
        steps_share: share of the metric's variance that goes with the number of steps; None likewise, or where they are all equal.
    """

    chart: float
    steps_sd: float | None
    steps_share: float | None

    @property
    def unsteady(self) -> bool:
        """Whether the champion moved by more than chance while what the gate compares was trained."""
        return self.chart >= 1

    @property
    def warning(self) -> str:
        """What to do about an unsteady machine, in sentences; empty where it is steady."""
        if not self.unsteady:
            return ""
        steps = f" Its trainings differ by {self.steps_sd:.1%} in steps (1 sd)" if self.steps_sd is not None else ""
        if steps and self.steps_share is not None:
            steps += f", which explains {self.steps_share:.0%} of the variance"
        return (
            f"The machine is too unsteady for the level: the champion's replicates moved by more than chance while the newest {M_CAP} were "
            f"trained, so luck may pass for a gain.{steps}{steps and '.'} Use fewer slots, a device that nobody else uses, or a longer budget "
            f"([compute] slots, [training] budget_s), and check promotions of this time again."
        )

    @classmethod
    def of(cls, replicates: Sequence[Score]) -> "Drift | None":
        """Measure it on finished replicates of the champion that the lab launched under equal conditions.

        Args:
            replicates: in the order of their starts.

        Returns:
            The drift; None where there are fewer than 3 replicates.
        """
        values = metrics(replicates)
        if len(values) < 3:
            return None
        steps = [math.log(score.steps) for score in replicates if score.steps]
        return cls(max(chart(values)[-M_CAP:]), sd(steps), explained_by_steps(replicates))


def chart(values: Sequence[float]) -> list[float]:
    """Return how far the average is from nothing after each value, in shares of its limit: 1 or more is an alarm."""
    places, before, average, variance = list[float](), _Before(), 0.0, 0.0
    for value in values:
        place, score = 0.0, before.score(value)
        if score is not None:
            average = (1 - _WEIGHT) * average + _WEIGHT * score
            variance = (1 - _WEIGHT) ** 2 * variance + _WEIGHT**2
            place = abs(average) / (LIMIT * math.sqrt(variance))
        places.append(place)
        before.add(value)
        if place >= 1:
            before, average, variance = _Before(), 0.0, 0.0
    return places


class _Before:
    """The values so far, by their mean and their spread (Welford's sums)."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        off = value - self._mean
        self._count += 1
        self._mean += off / self._count
        self._squares += off * (value - self._mean)

    def score(self, value: float) -> float | None:
        """Return how far a value is from these, as a normal score; None where these don't vary."""
        from scipy.special import ndtri, stdtr

        degrees = self._count - 1
        spread = math.sqrt(self._squares / degrees) if degrees > 0 else 0.0
        if spread <= _ROUNDING * abs(value):
            return None
        t = (value - self._mean) / (spread * math.sqrt(1 + 1 / self._count))
        return math.copysign(min(_FAR, -float(ndtri(stdtr(degrees, -abs(t))))), t)


def explained_by_steps(scores: Sequence[Score]) -> float | None:
    """Return the share of the metric's variance that a line in the logarithm of the steps explains."""
    pairs = [(math.log(score.steps), score.metric) for score in scores if score.steps and score.metric is not None]
    if len(pairs) < 3:
        return None
    x, y = zip(*pairs)
    mx, my = mean(x), mean(y)
    sxx, syy = math.fsum((a - mx) ** 2 for a in x), math.fsum((b - my) ** 2 for b in y)
    if not sxx or not syy:
        return None
    return math.fsum((a - mx) * (b - my) for a, b in pairs) ** 2 / (sxx * syy)
