"""The promotion gate: whether a commit is better than the champion by more than another seed would change.

The gate keeps a lucky seed from becoming the champion.

- It counts metrics that the lab accepts, under equal conditions only (see `evidence`).
- It asks for replicates of both sides.
- It holds failures against the candidate, so that nobody can cancel bad runs out of sight.
- What validation shows must be confirmed on a hidden split, of which no agent sees a number.

What the level means: the chance that one candidate that is no better passes, asked once. What it does not cover:

- Many candidates: of 100 that change nothing, 5 pass at 0.05.
- Asking again after more replicates: the chance grows to twice the level with a handful of looks.
- A lucky seed: the hidden split shares the replicates' seeds, so it takes back only what fits the validation text.

More replicates of what won, and a lower level, help against all three. A train.py that sets its own seed doesn't turn replicates
into one training, because the lab's seed decides what is trained on (trainer/stream.py). Models whose weights are equal bit for bit
count once.

The hidden split: the candidate's mean must be lower there as well, with p <= `CONFIRMED` of the same test. That is looser than the
lab's level, because the split is half as large. Simulated with the cpu profile's noise (0.0054 between seeds, 0.0025 and 0.0036
between texts) and 3 replicates: a gain of 0.01 or 0.02 that passed validation is confirmed in 88% or 99%, and one that exists on the
validation text alone in 27% or 15%. Every refusal of this kind tells an agent one bit of the split. It costs a candidate that beats
the champion on validation, and the answer stays the same until there are more replicates, so a campaign learns little. The lab's
owner sees both numbers with `autoresearch-mcp scores`.
"""

import math
from collections import Counter
from collections.abc import Sequence

from autoresearch_mcp.server.gate.evidence import BY_SETTING, Exclusion, counted, metrics, uncounted
from autoresearch_mcp.server.gate.spread import mean, pooled_sd, sd
from autoresearch_mcp.server.models import Metric, Score, Verdict
from autoresearch_mcp.server.settings import PromotionSection

MOST_FAILURES = 0.25  # share of a candidate's attempts
CONFIRMED = 0.1  # p on the hidden split, or the lab's level where that is looser
POWER = 0.8
_MOST_REPLICATES = 1_000


def welch_test(candidate: Sequence[float], champion: Sequence[float]) -> float:
    """Test whether the candidate's mean is lower, by Welch's t-test with the Welch-Satterthwaite degrees of freedom.

    Source: Welch, Biometrika 34, 1947. Where neither side varies at all there is no noise to test against: equal means give 1, and
    any difference counts fully, 0 or 1.

    Returns:
        The one-sided p-value.

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
    """Return P(T <= t) of Student's distribution (Abramowitz and Stegun 26.7.1, through the incomplete beta function)."""
    if math.isinf(t):
        return 0.0 if t < 0 else 1.0
    square = t * t
    if square < degrees:  # the smaller argument keeps the digits on either side
        centre = beta_cdf(square / (degrees + square), 0.5, degrees / 2) / 2
        return 0.5 + math.copysign(centre, t)
    tail = beta_cdf(degrees / (degrees + square), degrees / 2, 0.5) / 2
    return tail if t < 0 else 1.0 - tail


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    Source: the continued fraction of DLMF 8.17.22 with Lentz's method (Press et al., Numerical Recipes, 3rd ed., 6.4).
    """
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
    """Estimate how many replicates of each side would show a difference.

    It is the normal approximation plus Student's correction of a quarter of z squared.

    Args:
        difference: the true one, candidate minus champion.
        noise: standard deviation between replicates.
        level: the p-value to reach.
        power: the probability to reach it.

    Returns:
        The number, or None where the candidate is not better or it takes over 1,000.
    """
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


def judge(candidate: Sequence[Score], champion: Sequence[Score], rules: PromotionSection, reference: str = "cpu") -> Verdict:
    """Judge every attempt of both commits that left the queue for good.

    The gate compares finished replicates with a metric that counts (see `evidence`), on the reference kind of device, under one set
    of conditions (see `_shared_conditions`). Failures of the candidate count whatever their conditions were. What was cancelled before
    it started doesn't count.

    Args:
        candidate: its attempts, the oldest first.
        champion: the champion's attempts, likewise.
        rules: of the lab.
        reference: the kind of device whose results are compared.
    """
    if candidate and champion and candidate[0].commit == champion[0].commit:
        reason = "This commit is the champion already. Nothing to promote."
        return Verdict(promote=False, code="is_champion", level=rules.level, reason=reason)
    needed = max(2, rules.min_replicates)
    eligible = [[score for score in counted(side, rules) if score.device == reference] for side in (candidate, champion)]
    conditions = _shared_conditions(eligible[0], eligible[1], needed)
    ours, theirs = ([score for score in side if score.conditions == conditions] for side in eligible)
    verdict = Verdict(
        promote=False,
        reason="",
        code="too_few_replicates",
        metric=_kind([*ours, *theirs] or [score for score in (*candidate, *champion) if score.metric is not None]),
        level=rules.level,
        candidate_n=len(ours),
        candidate_mean=mean(metrics(ours)) if ours else None,
        candidate_sd=sd(metrics(ours)),
        champion_n=len(theirs),
        champion_mean=mean(metrics(theirs)) if theirs else None,
        champion_sd=sd(metrics(theirs)),
    )
    if reason := failures(candidate):
        return verdict.model_copy(update={"code": "too_many_failures", "reason": reason})
    lacks = {name: needed - len(have) for name, have in (("candidate", ours), ("champion", theirs)) if len(have) < needed}
    if lacks:
        sides = {"candidate": candidate, "champion": champion}
        verdict = verdict.model_copy(update=_missing(lacks, sides, rules, conditions))
        if any(score.metric is not None and score.device != reference for name in lacks for score in sides[name]):
            screened = f" Only results on {reference} count here, the lab's reference: those on other kinds of device are for screening."
            verdict = verdict.model_copy(update={"reason": verdict.reason + screened})
        return verdict
    return verdict.model_copy(update=_compare(ours, theirs, rules.level))


def _kind(scores: Sequence[Score]) -> Metric:
    return "reported" if scores and all(score.val_bpb is None for score in scores) else "verified"


def _shared_conditions(candidate: Sequence[Score], champion: Sequence[Score], needed: int) -> str:
    """Choose the conditions to compare under.

    They are those for which the fewest replicates are missing. Where none are missing, they are those under which the champion has the
    most. Of equals, the newest win: nothing can be measured anew under conditions of the past, so nobody should wait for that.
    """

    def rank(conditions: str) -> tuple[int, int, float]:
        ours, theirs = (sum(score.conditions == conditions for score in side) for side in (candidate, champion))
        newest = max(score.finished_at for score in (*candidate, *champion) if score.conditions == conditions)
        there = min(ours, needed) + min(theirs, needed)
        return there, theirs if there == 2 * needed else 0, newest

    return max({score.conditions for score in (*candidate, *champion)}, key=rank, default="")


def failures(candidate: Sequence[Score]) -> str:
    """Say what is wrong with a candidate that fails too often; empty where nothing is."""
    attempts = [score for score in candidate if score.started or score.state != "cancelled"]
    failed = [score for score in attempts if score.metric is None]
    if len(failed) <= MOST_FAILURES * len(attempts):
        return ""
    states = ", ".join(
        f"{sum(score.state == state for score in failed)} {state}" for state in dict.fromkeys(score.state for score in failed)
    )
    return (
        f"{len(failed)} of the candidate's {len(attempts)} attempts did not finish with a metric ({states.replace('_', ' ')}); at most a "
        f"quarter may, so that bad runs can't be left out. Fix the cause in a new proposal, or launch "
        f"{math.ceil(len(failed) / MOST_FAILURES) - len(attempts)} more replicates that all finish."
    )


def _missing(lacks: dict[str, int], sides: dict[str, Sequence[Score]], rules: PromotionSection, conditions: str) -> dict[str, object]:
    """Say what has to be trained before the two can be compared, and which of what was trained doesn't count, and why."""
    lines = [f"the {name} needs {n} more {'replicate' if n == 1 else 'replicates'}" for name, n in lacks.items()]
    reason = " and ".join(lines)
    reason = f"{reason[0].upper()}{reason[1:]} of the {max(2, rules.min_replicates)} that a comparison takes."
    refused: Counter[Exclusion] = Counter()
    for name in lacks:
        rest = uncounted(sides[name], rules, conditions)
        reason += "".join(f" {sentence}" for sentence in rest.sentences(name))
        refused += rest.excluded
    code = next((why for why in BY_SETTING if refused[why]), "too_few_replicates")
    if code == "too_few_replicates":
        reason += " launch_training, then ask again."
    return {"code": code, "reason": reason}


def _compare(ours: Sequence[Score], theirs: Sequence[Score], level: float) -> dict[str, object]:
    mine, other = metrics(ours), metrics(theirs)
    difference, p = mean(mine) - mean(other), welch_test(mine, other)
    numbers: dict[str, object] = {"difference": difference, "p_value": p}
    name = "val_bpb" if _kind(ours) == "verified" else "the reported metric"
    if difference >= 0:
        reason = f"Not better: {name} {mean(mine):.4f} against {mean(other):.4f}, difference {difference:+.4f}. Build on what was learned, or drop it."
        return numbers | {"code": "not_better", "reason": reason}
    if p > level:
        more = replicates_needed(difference, pooled_sd([mine, other]) or 0.0, level)
        advice = (
            f"If the difference is real, about {more} replicates of each would show it; the candidate has {len(mine)}, the champion {len(other)}."
            if more is not None
            else "More replicates are unlikely to show it: try a change with a larger effect."
        )
        return numbers | {
            "code": "not_better",
            "reason": f"Difference {difference:+.4f} is within noise (p = {p:.2g} > {level:g}). {advice}",
        }
    if not _confirmed(ours, theirs, level):
        reason = (
            f"Better on validation (difference {difference:+.4f}, p = {p:.2g}), but not on the hidden split, whose numbers are not shown: the "
            "change fits the validation text rather than the language, or its gain is small. Leave it, or launch more replicates of it once."
        )
        return numbers | {"code": "not_confirmed", "reason": reason}
    unverified = ""
    if _kind(ours) == "reported":
        unverified = " Its own code printed it; nobody verified it."
        if len(set(mine)) == 1:
            unverified += " All of the candidate's numbers are equal: the metric is coarse, or the code may ignore its seed."
    reason = f"Better: {name} {mean(mine):.4f} against {mean(other):.4f}, difference {difference:+.4f} (p = {p:.2g}, level {level:g}).{unverified}"
    return numbers | {"promote": True, "code": "better", "reason": reason}


def _confirmed(ours: Sequence[Score], theirs: Sequence[Score], level: float) -> bool:
    """Return whether the hidden split says the same. Reported metrics have no score there, so there is nothing to ask."""
    if _kind(ours) == "reported":
        return True
    mine, other = ([score.test_bpb for score in side if score.test_bpb is not None] for side in (ours, theirs))
    return mean(mine) < mean(other) and welch_test(mine, other) <= max(CONFIRMED, level)
