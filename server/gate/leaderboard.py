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
from autoresearch_mcp.server.gate.noise import Others, pool, sums_of_squares
from autoresearch_mcp.server.gate.rule import M_FIRST, Noise, Rules
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


class Ranking(NamedTuple):
    """How commits stand beside each other.

    Attributes:
        leaders: the best first: by their likely gain where the noise is known, else by their mean.
        likely: the likely gain of every commit but the champion, the best first; none before the noise is known.
    """

    leaders: list[Leader]
    likely: dict[str, Shrunk]


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
    measured, errors = np.asarray(gains, float) / sd, 1 / np.sqrt(np.asarray(counts, float))
    widths = list(_WIDTHS)
    while widths[-1] < min(
        np.abs(measured).max() + _LUCK[1], _WIDEST
    ):  # else the likelihood of a gain beyond all of them would be 0 everywhere
        widths.append(2 * widths[-1])
    wide = np.array(widths)[:, None]
    low, high = np.concatenate([-wide, 0 * wide]), np.concatenate([0 * wide, wide])
    head = np.array([_HEAD] + [0.0] * len(low))
    # Of all arrays the first axis is the champion's luck, the second what the true gain is drawn from, the last the commit.
    luck = np.linspace(*_LUCK[:2], int(_LUCK[2]))[:, None, None]
    d = measured + luck / math.sqrt(m)
    a, b = (low - d) / errors, (high - d) / errors
    upper = a > 0  # there the mass is differenced from above, for its digits
    mass = np.maximum(special.ndtr(np.where(upper, -a, b)) - special.ndtr(np.where(upper, -b, a)), 1e-300)
    at_a, at_b = (np.exp(-each * each / 2) / math.sqrt(2 * math.pi) for each in (a, b))
    slope = (at_a - at_b) / mass
    centre = np.clip(d + errors * slope, low, high)
    variance = np.clip(errors**2 * (1 + (a * at_a - b * at_b) / mass - slope**2), 0, (high - low) ** 2 / 4)
    point = np.exp(-((d / errors) ** 2) / 2) / math.sqrt(2 * math.pi) / errors
    likely = np.concatenate([point, mass / (high - low)], 1) + 1e-300
    weight = np.broadcast_to(np.array([0.5] + [0.5 / len(low)] * len(low)), likely.shape[:2])
    for _ in range(_ROUNDS):
        before = weight
        evidence = np.einsum("lkn,lk->ln", likely, before)
        weight = (before * np.einsum("lkn,ln->lk", likely, 1 / evidence) + head + 0.01) / (len(measured) + head.sum() + 0.01 * len(head))
    share = likely * before[:, :, None] / evidence[:, None]
    fit = np.log(np.einsum("lkn,lk->ln", likely, weight)).sum(1) + _HEAD * np.log(weight[:, 0]) - luck[:, 0, 0] ** 2 / 2
    trust = np.exp(fit - fit.max())
    moments = share[:, 1:] * centre, share[:, 1:] * (centre**2 + variance), share[:, 1 + len(widths) :]
    first, second, better = (np.average(each.sum(1), axis=0, weights=trust) for each in moments)
    half = _TWO_SIDED * np.sqrt(np.maximum(second - first**2, 0))
    return [
        Shrunk(float(gain) * sd, float(gain - each) * sd, float(gain + each) * sd, float(chance))
        for gain, each, chance in zip(first, half, better)
    ]


def known_noise(fresh: Sequence[float], others: Others) -> Noise | None:
    """Return the noise by which gains are shrunk; None where too little is known of it, or of the champion.

    Args:
        fresh: metrics of the champion's fresh replicates.
        others: spreads of the other commits.
    """
    noise = pool(sums_of_squares(fresh), others) if len(fresh) >= M_FIRST else None
    return noise if noise is not None and noise.nu >= NU_MIN and noise.sd > 0 else None


def leaders(
    standings: Sequence[Standing],
    champion: str,
    fresh: Sequence[float],
    verdicts: Mapping[str, Verdict],
    limit: int,
    rules: Rules,
    noise: Noise | None,
    charges: Mapping[str, float] | None = None,
) -> Ranking:
    """Rank the commits by how good they are likely to be.

    Args:
        standings: the commits under the conditions to compare under; of a large lab those that tell how all of them stand. Without
            noise nobody has to know more of them than the best.
        champion: its commit.
        fresh: metrics of its fresh replicates: what won it the crown says too much.
        verdicts: what the gate said last, by commit.
        limit: how many leaders to return.
        rules: of the lab; they say what is better.
        noise: as `known_noise` tells it.
        charges: what the gate takes off the gain of each commit for what its source holds, where it takes anything.
    """
    others = [each for each in standings if each.commit != champion]
    likely: dict[str, Shrunk] = {}
    if noise is not None:
        gains = [rules.gain(each.mean, mean(fresh)) - (charges or {}).get(each.commit, 0.0) for each in others]
        shrunk = shrink(gains, [each.n for each in others], len(fresh), noise.sd)
        likely = {each.commit: gain for gain, each in sorted(zip(shrunk, others), key=lambda pair: -pair[0].gain)}

    def order(standing: Standing) -> tuple[float, float]:
        gain = likely.get(standing.commit)
        return (-gain.gain if gain else 0.0), -rules.gain(standing.mean, 0.0)

    first = sorted(standings, key=order)[:limit]
    return Ranking([Leader(each, likely.get(each.commit), _mark(each.commit, champion, verdicts)) for each in first], likely)


def _mark(commit: str, champion: str, verdicts: Mapping[str, Verdict]) -> Mark:
    if commit == champion:
        return "champion"
    verdict = verdicts.get(commit)
    if verdict is None:
        return "open"
    return "decided" if verdict.final else "futile" if verdict.code == "futile" else "open"
