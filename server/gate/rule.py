"""The rule of the gate, on plain numbers: whether a candidate is better than the champion by more than luck.

    t = gain / se      gain = difference of the means      se^2 = v_candidate / n + v_champion / m

The variance of a side is the noise's: the spread between replicates of one commit, pooled over commits (see `noise`). Where the side's
own replicates vary significantly more, its own spread counts (see `_variance`).

- promote: n >= 3, m >= 8, and a p-value that keeps the level over all looks (see `boundary`). The hidden split must show at least half
  of the gain.
- futile: the gain is below 0.9 - 1/n standard deviations. That is advice: the level holds without it. With all replicates it is final.
- continue: anything else, for one more replicate.
- champion: the champion lacks replicates.

Asking costs nothing: the level holds however often anybody asks, at most once for each replicate of either side. What it assumes: the
replicates of both sides are spread over the same time (see `runner.order`), and the champion's were not chosen by their results.

The bench (`tests/bench/gate.py`) simulates this very function.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeVar

from autoresearch_mcp.server import goal as goals
from autoresearch_mcp.server.gate.boundary import LEVEL, M_CAP, M_MIN, N_CAP, N_MIN, NU_MIN, nominal_p
from autoresearch_mcp.server.gate.spread import mean

T = TypeVar("T")
Ruling = Literal["promote", "continue", "futile", "not_confirmed", "champion"]

M_FIRST = 4  # fresh replicates of the champion, before anything is said of a candidate
HIDDEN_SHARE = 0.5  # of the gain, that the hidden split has to show
GUARD_P = 0.3  # of the F test by which a side's own spread counts: so large costs no power, and helps most where a candidate varies more
_DECIDED = "It is decided. Go on with another idea."
_ROUNDING = 1e-12  # share of a mean that is no difference
_GUARD_DF = 2  # weight of the noise then, in degrees of freedom
_FUTILE = 0.9  # standard deviations: a gain that is not worth more replicates, less 1/n for luck


class Run(NamedTuple):
    """A replicate as the rule sees it.

    Attributes:
        metric: on the validation split.
        hidden: on the hidden split; None where the metric has none.
    """

    metric: float
    hidden: float | None = None


@dataclass(frozen=True)
class Noise:
    """The spread between replicates of one commit.

    Attributes:
        sd: the standard deviation, in the metric's unit.
        nu: its degrees of freedom.
    """

    sd: float
    nu: int


@dataclass(frozen=True)
class Rules:
    """What a lab asks of a candidate.

    Attributes:
        level: the chance that a candidate that is no better is ever promoted.
        cap: how many of its replicates count, the first in order of their starts.
        goal: whether a lower or a higher metric is better.
    """

    level: float = LEVEL
    cap: int = N_CAP
    goal: goals.Goal = "min"

    def gain(self, candidate: float, champion: float) -> float:
        """Return by how much the candidate's metric is better; negative where it is worse."""
        return goals.gain(candidate, champion, self.goal)

    def worst(self, values: Sequence[float]) -> float:
        """Return the worst of at least one metric."""
        return goals.worst(values, self.goal)


@dataclass(frozen=True)
class Decision:
    """What the rule says, with its numbers. Gains are in the metric's unit, and positive is better.

    Attributes:
        verdict: promote, continue, futile, not_confirmed, or champion: it needs replicates.
        n: replicates of the candidate that count.
        m: fresh replicates of the champion that count.
        gain: of the means; None without replicates of both.
        se: standard error of the gain; None before there is noise to compute it from.
        p: chance of such a gain at one look by luck alone; None likewise.
        needed_gain: what would promote with these replicates; None likewise.
        noise: the standard deviation between replicates of one commit; None before it is known.
        nu: degrees of freedom of the noise.
        final: whether more replicates change nothing.
        next: what happens next, in a sentence.
    """

    verdict: Ruling
    n: int
    m: int
    gain: float | None = None
    se: float | None = None
    p: float | None = None
    needed_gain: float | None = None
    noise: float | None = None
    nu: int = 0
    final: bool = False
    next: str = ""

    @property
    def gain_sd(self) -> float | None:
        """The gain in standard deviations between replicates."""
        return self.gain / self.noise if self.gain is not None and self.noise else None


def decide(candidate: Sequence[Run], champion: Sequence[Run], noise: Noise | None, rules: Rules) -> Decision:
    """Decide on a candidate with what is known now.

    Args:
        candidate: its replicates in order of their starts; the first `rules.cap` count.
        champion: the champion's fresh replicates; the last `M_CAP` count (see `window`).
        noise: the spread between replicates of one commit; None before it is known.
        rules: of the lab.
    """
    ours, theirs = candidate[: rules.cap], champion[-M_CAP:]
    n, m = len(ours), len(theirs)
    x, y = [run.metric for run in ours], [run.metric for run in theirs]
    gain = _gain(mean(x), mean(y), rules) if n and m else None
    known = Decision("continue", n, m, gain, noise=noise.sd if noise else None, nu=noise.nu if noise else 0)
    if gain is None or m < M_FIRST or noise is None or noise.nu < NU_MIN:
        waits = n and (m < M_FIRST or n >= rules.cap)
        return replace(known, verdict="champion", next=_champion_first(m)) if waits else replace(known, next=_one_more(n))
    se = math.sqrt(_variance(x, noise) / n + _variance(y, noise) / m)
    needed = _bound(rules.level, rules.cap, noise.nu) * se
    known = replace(known, se=se, p=_p_value(gain, se, noise.nu), needed_gain=needed)
    passes = n >= N_MIN and gain > 0 and gain >= needed
    if (passes or n >= rules.cap) and m < M_MIN:
        return replace(known, verdict="champion", next=_champion_first(m))
    if passes and _confirmed(ours, theirs, gain, rules):
        return replace(known, verdict="promote", final=True, next="The champion may move.")
    if passes or n >= rules.cap:
        return replace(known, verdict="not_confirmed" if passes else "futile", final=True, next=_DECIDED)
    if gain <= 0 or gain < (_FUTILE - 1 / n) * noise.sd:
        return replace(known, verdict="futile", next="Drop it: a gain worth the replicates would have shown by now.")
    return replace(known, next=_one_more(n))


def window(champion: Sequence[tuple[float, T]], until: float) -> list[T]:
    """Return the champion's fresh replicates that count against a candidate.

    They are the newest `M_CAP` of those that ended before the candidate's newest did, and later ones only to fill up. A window that
    renewed itself while somebody waits would give a new chance each time.

    Args:
        champion: when each ended, and the replicate, in order of their starts.
        until: when the candidate's newest replicate ended.
    """
    before = [run for ended, run in champion if ended <= until]
    after = [run for ended, run in champion if ended > until]
    return [*before[-M_CAP:], *after[: max(0, M_CAP - len(before))]]


def _gain(candidate: float, champion: float, rules: Rules) -> float:
    gain = rules.gain(candidate, champion)
    return gain if abs(gain) > _ROUNDING * abs(champion) else 0.0


def _variance(own: Sequence[float], noise: Noise) -> float:
    """Return a side's variance: the noise's, unless its own replicates vary significantly more; then a mean of both, mostly its own."""
    pooled = noise.sd**2
    if len(own) < 2:
        return pooled
    centre = mean(own)
    squares = math.fsum((value - centre) ** 2 for value in own)
    degrees = len(own) - 1
    if squares <= len(own) * (_ROUNDING * centre) ** 2 or squares <= degrees * f_quantile(GUARD_P, degrees, noise.nu) * pooled:
        return pooled
    return (_GUARD_DF * pooled + squares) / (_GUARD_DF + degrees)


def _confirmed(ours: Sequence[Run], theirs: Sequence[Run], gain: float, rules: Rules) -> bool:
    """Return whether the hidden split shows enough of the gain. A metric without that split has nothing to ask."""
    x, y = ([run.hidden for run in side if run.hidden is not None] for side in (ours, theirs))
    return not x or not y or rules.gain(mean(x), mean(y)) >= HIDDEN_SHARE * gain


def _p_value(gain: float, se: float, nu: int) -> float:
    from scipy.special import stdtr

    if se == 0:
        return 0.0 if gain > 0 else 1.0
    return float(stdtr(nu, -gain / se))


@functools.lru_cache(maxsize=4096)
def _bound(level: float, cap: int, nu: int) -> float:
    from scipy.special import stdtrit

    return -float(stdtrit(nu, nominal_p(level, cap, nu)))


@functools.lru_cache(maxsize=65536)
def f_quantile(p: float, first: int, second: int) -> float:
    """Return the value that Fisher's F with these degrees of freedom exceeds with probability p."""
    from scipy.special import fdtri

    return float(fdtri(first, second, 1 - p))


def _one_more(n: int) -> str:
    return "Its first replicate decides next." if n == 0 else f"Replicate {n + 1} of it decides next."


def _champion_first(m: int) -> str:
    missing = (M_FIRST if m < M_FIRST else M_MIN) - m
    return f"The lab trains {missing} more {'replicate' if missing == 1 else 'replicates'} of the champion first, by itself."
