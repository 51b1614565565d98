"""An honest leaderboard: how much better than the champion each commit is likely to be, once its luck is taken off.

The best of many measured gains are mostly luck. So each gain is shrunk by what the crowd shows: true gains are a point at 0 and uniforms
on [0, a] and [-a, 0], a = 2, 4, 8, 16 standard deviations of noise and so on up to what was measured, with weights by expectation and
maximisation (adaptive shrinkage, Stephens, Biostatistics 18, 2017). The point has a head start of ten candidates. All gains share the
champion's own luck, which the crowd without a gain reveals: the result is averaged over it.

It informs, and promotes nothing. Its intervals are of the posterior's standard deviation, as if it were normal.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from autoresearch_mcp.server.gate.boundary import NU_MIN
from autoresearch_mcp.server.gate.noise import Others, listed, pool, sums_of_squares
from autoresearch_mcp.server.gate.rule import M_FIRST, Rules
from autoresearch_mcp.server.gate.spread import mean
from autoresearch_mcp.server.ledger.standings import Standing
from autoresearch_mcp.server.models import Verdict

Mark = Literal["champion", "decided", "open", "futile"]

_HEAD = 10.0  # candidates without gain, for free
_WIDTHS = (2.0, 4.0, 8.0, 16.0)  # of the uniforms, in standard deviations of noise
_WIDEST = 2.0**40  # however far a measured gain is
_LUCK = (-2.0, 2.0, 7)  # of the champion, in standard errors of its mean: from, to, and how many values
_ROUNDS = 40
_TWO_SIDED = 1.96  # standard deviations on either side, for 95 %


@dataclass(frozen=True)
class Shrunk:
    """What a gain is likely to be.

    Attributes:
        gain: the mean of what is likely, in the metric's unit; positive is better.
        low: the lower end of its 95 % interval.
        high: the upper end.
        better: the chance that it is a gain at all.
    """

    gain: float
    low: float
    high: float
    better: float


class Leader(NamedTuple):
    """A commit's place.

    Attributes:
        standing: its replicates that count.
        shrunk: its likely gain on the champion; None for the champion, and before the noise is known.
        mark: what the gate said of it last.
    """

    standing: Standing
    shrunk: Shrunk | None
    mark: Mark


def shrink(gains: Sequence[float], counts: Sequence[int], m: int, sd: float) -> list[Shrunk]:
    """Shrink measured gains towards what the crowd shows.

    Args:
        gains: of the means, over one and the same champion.
        counts: replicates of each.
        m: replicates of the champion.
        sd: standard deviation between replicates of one commit; more than 0.
    """
    import numpy as np
    from scipy import special

    if not gains:
        return []
    measured, errors = np.asarray(gains, float)[:, None] / sd, 1 / np.sqrt(np.asarray(counts, float))[:, None]
    widths = list(_WIDTHS)
    while widths[-1] < min(
        np.abs(measured).max() + _LUCK[1], _WIDEST
    ):  # else the likelihood of a gain beyond all of them would be 0 everywhere
        widths.append(2 * widths[-1])
    wide = np.array([widths])
    low, high = np.concatenate([-wide, 0 * wide], 1), np.concatenate([0 * wide, wide], 1)
    head = np.array([_HEAD] + [0.0] * low.shape[1])
    fits = list[tuple[float, object, object, object]]()
    for luck in np.linspace(*_LUCK[:2], int(_LUCK[2])):
        d = measured + luck / math.sqrt(m)
        a, b = (low - d) / errors, (high - d) / errors
        upper = a > 0  # there the mass is differenced from above, for its digits
        mass = np.maximum(np.where(upper, special.ndtr(-a) - special.ndtr(-b), special.ndtr(b) - special.ndtr(a)), 1e-300)
        at_a, at_b = (np.exp(-each * each / 2) / math.sqrt(2 * math.pi) for each in (a, b))
        centre = np.clip(d + errors * (at_a - at_b) / mass, low, high)
        variance = np.clip(errors**2 * (1 + (a * at_a - b * at_b) / mass - ((at_a - at_b) / mass) ** 2), 0, (high - low) ** 2 / 4)
        point = np.exp(-((d / errors) ** 2) / 2) / math.sqrt(2 * math.pi) / errors
        likely = np.concatenate([point, mass / (high - low)], 1) + 1e-300
        weight = np.array([0.5] + [0.5 / low.shape[1]] * low.shape[1])
        share = likely
        for _ in range(_ROUNDS):
            share = likely * weight / (likely * weight).sum(1, keepdims=True)
            weight = (share.sum(0) + head + 0.01) / (len(measured) + head.sum() + 0.01 * len(head))
        fit = float(np.log((likely * weight).sum(1)).sum() + _HEAD * math.log(weight[0]) - luck**2 / 2)
        squares = (share[:, 1:] * (centre**2 + variance)).sum(1)
        fits.append((fit, (share[:, 1:] * centre).sum(1), squares, share[:, 1 + len(widths) :].sum(1)))
    best = max(fit[0] for fit in fits)
    trust = np.exp([fit[0] - best for fit in fits])
    first, second, better = (np.average([fit[column] for fit in fits], axis=0, weights=trust) for column in (1, 2, 3))
    half = _TWO_SIDED * np.sqrt(np.maximum(second - first**2, 0))
    return [
        Shrunk(float(gain) * sd, float(gain - each) * sd, float(gain + each) * sd, float(chance))
        for gain, each, chance in zip(first, half, better)
    ]


def leaders(
    standings: Sequence[Standing],
    champion: str,
    fresh: Sequence[float],
    verdicts: Mapping[str, Verdict],
    limit: int,
    rules: Rules,
    charges: Mapping[str, float] | None = None,
    spreads: Others | None = None,
) -> list[Leader]:
    """Return the commits that are likely to be best.

    Args:
        standings: the commits under the conditions to compare under; of a large lab those that tell how all of them stand.
        champion: its commit.
        fresh: metrics of its fresh replicates: what won it the crown says too much.
        verdicts: what the gate said last, by commit.
        limit: how many to return.
        rules: of the lab; they say what is better.
        charges: what the gate takes off the gain of each commit for what its source holds, where it takes anything.
        spreads: of all commits but the champion, where `standings` are not all.

    Returns:
        The best first: by their likely gain where the noise is known, else by their mean.
    """
    others = [each for each in standings if each.commit != champion]
    noise = pool(sums_of_squares(fresh), spreads or listed([each.squares for each in others]))
    shrunk: dict[str, Shrunk] = {}
    if noise is not None and noise.nu >= NU_MIN and noise.sd > 0 and len(fresh) >= M_FIRST:
        gains = [rules.gain(each.mean, mean(fresh)) - (charges or {}).get(each.commit, 0.0) for each in others]
        shrunk = dict(zip((each.commit for each in others), shrink(gains, [each.n for each in others], len(fresh), noise.sd)))

    def order(standing: Standing) -> tuple[float, float]:
        likely = shrunk.get(standing.commit)
        return (-likely.gain if likely else 0.0), -rules.gain(standing.mean, 0.0)

    ranked = sorted([*others, *(each for each in standings if each.commit == champion)], key=order)
    return [Leader(each, shrunk.get(each.commit), _mark(each.commit, champion, verdicts)) for each in ranked[:limit]]


def _mark(commit: str, champion: str, verdicts: Mapping[str, Verdict]) -> Mark:
    if commit == champion:
        return "champion"
    verdict = verdicts.get(commit)
    if verdict is None:
        return "open"
    return "decided" if verdict.final else "futile" if verdict.code == "futile" else "open"
