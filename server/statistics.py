"""Noise, tests and the promotion gate: whether a commit is better than the champion beyond what another seed would change.

The gate is what stands between a lucky seed and the champion. It counts verified metrics under equal conditions only, asks
for replicates of both sides, and holds failures against the candidate, so that bad runs can't be cancelled out of sight. It
tests one pair of samples; it corrects neither for the number of candidates that were tried nor for asking again after more replicates.
"""

import math
from collections.abc import Sequence

from .models import Score, Verdict

MOST_FAILURES = 0.25  # share of a candidate's attempts
POWER = 0.8
_MOST_REPLICATES = 1_000


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def sd(values: Sequence[float]) -> float | None:
    """Sample standard deviation, or None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def pooled_sd(groups: Sequence[Sequence[float]]) -> float | None:
    """The noise between replicates of one commit, over all commits that have at least two: the root of the pooled variance."""
    spreads = [(len(group) - 1, spread) for group in groups if (spread := sd(group)) is not None]
    degrees = sum(n for n, _ in spreads)
    return math.sqrt(math.fsum(n * spread**2 for n, spread in spreads) / degrees) if degrees else None


def welch_test(candidate: Sequence[float], champion: Sequence[float]) -> float:
    """The one-sided p-value that the candidate's mean is lower, by Welch's t-test with the Welch-Satterthwaite degrees of freedom
    (Welch, Biometrika 34, 1947). Each side needs two values.

    Where neither side varies at all there is no noise to test against: equal means give 1, and any difference counts fully, 0 or 1.

    Raises:
        ValueError: a side has fewer than two values.
    """
    first, second = sd(candidate), sd(champion)
    if first is None or second is None:
        raise ValueError("Welch's test needs at least two values on each side")
    a, b = first**2 / len(candidate), second**2 / len(champion)
    difference = mean(candidate) - mean(champion)
    if a + b == 0:
        return 0.0 if difference < 0 else 1.0
    share = a / (a + b)
    degrees = 1 / (share**2 / (len(candidate) - 1) + (1 - share) ** 2 / (len(champion) - 1))
    return student_t_cdf(difference / math.sqrt(a + b), degrees)


def student_t_cdf(t: float, degrees: float) -> float:
    """P(T <= t) of Student's distribution (Abramowitz and Stegun 26.7.1, through the incomplete beta function)."""
    if math.isinf(t):
        return 0.0 if t < 0 else 1.0
    square = t * t
    if square < degrees:  # the smaller argument keeps the digits on either side
        centre = beta_cdf(square / (degrees + square), 0.5, degrees / 2) / 2
        return 0.5 + math.copysign(centre, t)
    tail = beta_cdf(degrees / (degrees + square), degrees / 2, 0.5) / 2
    return tail if t < 0 else 1.0 - tail


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by the continued fraction of DLMF 8.17.22 with Lentz's method
    (Press et al., Numerical Recipes, 3rd ed., 6.4)."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, the mirror converges fast
        return 1.0 - beta_cdf(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _beta_fraction(x, a, b) / a


def _beta_fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0) or tiny)
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            step = c * d
            value *= step
        if abs(step - 1.0) < 1e-16:
            break
    return value


def replicates_needed(difference: float, noise: float, level: float, power: float = POWER) -> int | None:
    """Replicates of each side with which a true `difference` (candidate minus champion) would pass with probability `power`, in the
    normal approximation plus Student's correction of a quarter of z squared. None where it is not better, or it takes over 1,000."""
    if difference >= 0:
        return None
    if noise <= 0:
        return 2
    z = _normal_quantile(1 - level)
    needed = 2 * ((z + _normal_quantile(power)) * noise / difference) ** 2 + z * z / 4
    return max(2, math.ceil(needed)) if needed <= _MOST_REPLICATES else None


def _normal_quantile(p: float) -> float:
    low, high = -40.0, 40.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(-middle / math.sqrt(2)) / 2 < p else (low, middle)
    return (low + high) / 2


def judge(candidate: Sequence[Score], champion: Sequence[Score], level: float, min_replicates: int = 3) -> Verdict:
    """The gate's verdict over every attempt of both commits that left the queue for good.

    Compared are finished replicates with a verified metric under one set of conditions: see `_shared_conditions`. Failures of the
    candidate count whatever their conditions were; what was cancelled before it started doesn't.
    """
    if candidate and champion and candidate[0].commit == champion[0].commit:
        return Verdict(promote=False, code="is_champion", level=level, reason="This commit is the champion already. Nothing to promote.")
    needed = max(2, min_replicates)
    conditions = _shared_conditions(candidate, champion, needed)
    ours, theirs = _verified(candidate, conditions), _verified(champion, conditions)
    verdict = Verdict(
        promote=False,
        reason="",
        code="too_few_replicates",
        level=level,
        candidate_n=len(ours),
        candidate_mean=mean(ours) if ours else None,
        candidate_sd=sd(ours),
        champion_n=len(theirs),
        champion_mean=mean(theirs) if theirs else None,
        champion_sd=sd(theirs),
    )
    if reason := _failures(candidate):
        return verdict.model_copy(update={"code": "too_many_failures", "reason": reason})
    elsewhere = len(_verified(candidate, None)) - len(ours), len(_verified(champion, None)) - len(theirs)
    if reason := _missing(ours, theirs, needed, elsewhere):
        return verdict.model_copy(update={"reason": reason})
    return verdict.model_copy(update=_compare(ours, theirs, level))


def _verified(scores: Sequence[Score], conditions: str | None) -> list[float]:
    """Metrics that count; `None` for any conditions."""
    return [
        score.val_bpb
        for score in scores
        if score.state == "finished"
        and score.val_bpb is not None
        and math.isfinite(score.val_bpb)
        and (conditions is None or score.conditions == conditions)
    ]


def _shared_conditions(candidate: Sequence[Score], champion: Sequence[Score], needed: int) -> str:
    """The conditions to compare under: those for which the fewest replicates are missing; where none are, those under which the champion
    has the most; the newest of equals. Neither side can be measured anew under conditions of the past, so they must not be waited for."""

    def rank(conditions: str) -> tuple[int, int, float]:
        ours, theirs = len(_verified(candidate, conditions)), len(_verified(champion, conditions))
        newest = max(score.finished_at for score in (*candidate, *champion) if score.conditions == conditions)
        there = min(ours, needed) + min(theirs, needed)
        return there, theirs if there == 2 * needed else 0, newest

    return max({score.conditions for score in (*candidate, *champion) if _verified([score], None)}, key=rank, default="")


def _failures(candidate: Sequence[Score]) -> str:
    attempts = [score for score in candidate if score.started or score.state != "cancelled"]
    failed = [score for score in attempts if score.state != "finished" or not _verified([score], None)]
    if len(failed) <= MOST_FAILURES * len(attempts):
        return ""
    states = ", ".join(
        f"{sum(score.state == state for score in failed)} {state}" for state in dict.fromkeys(score.state for score in failed)
    )
    return (
        f"{len(failed)} of the candidate's {len(attempts)} attempts did not finish with a verified metric ({states.replace('_', ' ')}); at most a "
        f"quarter may, so that bad runs can't be left out. Fix the cause in a new proposal, or launch "
        f"{math.ceil(len(failed) / MOST_FAILURES) - len(attempts)} more replicates that all finish."
    )


def _missing(ours: Sequence[float], theirs: Sequence[float], needed: int, elsewhere: tuple[int, int]) -> str:
    """What has to be trained before the two can be compared: empty where nothing is."""
    lacks = [(name, needed - len(have)) for name, have in (("candidate", ours), ("champion", theirs)) if len(have) < needed]
    if not lacks:
        return ""
    reason = " and ".join(f"the {name} needs {n} more verified {'replicate' if n == 1 else 'replicates'}" for name, n in lacks)
    reason = f"{reason[0].upper()}{reason[1:]} of the {needed} that a comparison takes: launch_training, then ask again."
    for name, n in zip(("candidate", "champion"), elsewhere):
        if n:
            reason += (
                f" {n} of the {name}'s were measured under other conditions (device, budget, data or fixed files) and can't be compared."
            )
    return reason


def _compare(ours: Sequence[float], theirs: Sequence[float], level: float) -> dict[str, object]:
    difference, p = mean(ours) - mean(theirs), welch_test(ours, theirs)
    numbers: dict[str, object] = {"difference": difference, "p_value": p}
    if difference < 0 and p <= level:
        reason = (
            f"Better: val_bpb {mean(ours):.4f} against {mean(theirs):.4f}, difference {difference:+.4f} (p = {p:.2g}, level {level:g})."
        )
        return numbers | {"promote": True, "code": "better", "reason": reason}
    if difference >= 0:
        reason = f"Not better: val_bpb {mean(ours):.4f} against {mean(theirs):.4f}, difference {difference:+.4f}. Build on what was learned, or drop it."
        return numbers | {"code": "not_better", "reason": reason}
    more = replicates_needed(difference, pooled_sd([ours, theirs]) or 0.0, level)
    advice = (
        f"If the difference is real, about {more} replicates of each would show it; the candidate has {len(ours)}, the champion {len(theirs)}."
        if more is not None
        else "More replicates are unlikely to show it: try a change with a larger effect."
    )
    reason = f"Difference {difference:+.4f} is within noise (p = {p:.2g} > {level:g}). {advice}"
    return numbers | {"code": "not_better", "reason": reason}
