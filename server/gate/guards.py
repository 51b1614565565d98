"""Tests the guards: other metrics that a candidate may not make worse, by more than luck explains.

A guard passes where the candidate is surely good enough: with 95 % certainty, by Student's t over both sides' own replicates, it is not worse
than the champion by more than the margin, and its mean keeps the bound. It fails where the contrary is as sure, or with all replicates.
Numbers that the code prints are its own claims: a guard on them stops accidents, not cheats. The lab measures `peak_memory_mb` and
`train_s` itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoresearch_mcp.server.gate.boundary import N_MIN
from autoresearch_mcp.server.gate.spread import mean, sd
from autoresearch_mcp.server.goal import gain, worsened
from autoresearch_mcp.server.models import Score
from autoresearch_mcp.server.settings import Guard

CERTAINTY = 0.95


@dataclass(frozen=True)
class GuardResult:
    """What a guard says.

    Attributes:
        answer: `passed`, `failed`, or `open`: more replicates may tell.
        reason: why it did not pass, in a sentence.
    """

    answer: Literal["passed", "failed", "open"]
    reason: str = ""


def check(guard: Guard, candidate: Sequence[Score], champion: Sequence[Score], all_in: bool) -> GuardResult:
    """Test one guard.

    Args:
        guard: of lab.toml.
        candidate: its finished replicates that count.
        champion: the champion's.
        all_in: whether no more replicates of the candidate will count.
    """
    ours, theirs = ([score.metrics[guard.name] for score in side if guard.name in score.metrics] for side in (candidate, champion))
    if len(ours) < len(candidate) or not ours:
        return GuardResult("failed" if all_in else "open", f"{len(candidate) - len(ours)} of its replicates gave no {guard.name}.")
    tests = list[tuple[float, float, int, str]]()  # by how much it is worse than allowed, standard error, degrees of freedom, limit
    spread = (sd(ours) or 0.0) ** 2
    if guard.bound is not None:
        excess = -gain(mean(ours), guard.bound, guard.better)
        tests.append((excess, math.sqrt(spread / len(ours)), len(ours) - 1, f"the bound is {guard.bound:.4g}"))
    if guard.margin is not None:
        if len(theirs) < N_MIN:
            return GuardResult("open", f"only {len(theirs)} replicates of the champion gave a {guard.name}, and {N_MIN} are needed.")
        other, degrees = (sd(theirs) or 0.0) ** 2, len(ours) + len(theirs) - 2
        pooled = ((len(ours) - 1) * spread + (len(theirs) - 1) * other) / degrees
        limit = worsened(mean(theirs), guard.margin, guard.better)
        excess = -gain(mean(ours), limit, guard.better)
        words = f"the champion's is {mean(theirs):.4g} and the margin {guard.margin:.4g}"
        tests.append((excess, math.sqrt(pooled * (1 / len(ours) + 1 / len(theirs))), degrees, words))
    for excess, error, degrees, words in tests:
        width = _quantile(degrees) * error if error else 0.0
        if excess + width > 1e-12 * abs(mean(ours)):
            sure = excess - width > 0 or all_in
            doubt = "is worse than allowed" if excess - width > 0 else f"is not surely within its limit (± {width:.2g})"
            return GuardResult("failed" if sure else "open", f"its {guard.name} of {mean(ours):.4g} {doubt}: {words}.")
    return GuardResult("passed")


def _quantile(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, CERTAINTY)) if degrees else math.inf
