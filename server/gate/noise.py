"""The noise: how much replicates of one commit differ under equal conditions, pooled over commits.

The champion's fresh replicates are the measure of the others, because the lab alone launched them, spread over time.

- A commit that varies far more is another kind of thing, and is left out: else one unstable proposal would hide every gain.
- If the champion varies significantly more than all others together, it counts alone: else commits that hardly vary, or were trained
  all at once, would make luck look like a gain.
"""

import math
from collections.abc import Callable, Sequence

from autoresearch_mcp.server.gate.rule import GUARD_P, M_FIRST, Noise, f_quantile
from autoresearch_mcp.server.gate.spread import mean

Squares = tuple[int, float]
"""Degrees of freedom of a commit's spread, and the sum of squares around its mean."""

Limit = Callable[[int], float]
"""The largest sum of squares of a commit that is pooled, by its degrees of freedom."""

Others = Callable[[Limit | None], Squares]
"""Adds up the spreads of the other commits, those within a limit or all."""

_UNSTABLE_P = 0.001  # of the F test by which a commit varies too much to be pooled


def pooled_noise(champion: Sequence[float], others: Sequence[Sequence[float]]) -> Noise | None:
    """Pool the spread of all commits with at least two replicates.

    Args:
        champion: metrics of the champion's fresh replicates.
        others: metrics of each other commit's replicates that count.

    Returns:
        The noise, or None where no commit has two.
    """
    return pool_squares(sums_of_squares(champion), [sums_of_squares(values) for values in others])


def sums_of_squares(values: Sequence[float]) -> Squares:
    """Return the spread of a commit's replicates."""
    if len(values) < 2:
        return 0, 0.0
    centre = mean(values)
    return len(values) - 1, math.fsum((value - centre) ** 2 for value in values)


def pool_squares(champion: Squares, others: Sequence[Squares]) -> Noise | None:
    """Pool spreads that are given as `sums_of_squares`."""
    return pool(champion, listed(others))


def listed(spreads: Sequence[Squares]) -> Others:
    """Return a list of spreads as `pool` asks for them."""

    def add_up(limit: Limit | None) -> Squares:
        within = [each for each in spreads if each[0] and (limit is None or each[1] <= limit(each[0]))]
        return sum(degrees for degrees, _ in within), math.fsum(squares for _, squares in within)

    return add_up


def pool(champion: Squares, others: Others) -> Noise | None:
    """Pool the champion's spread with those of the other commits."""
    own, squares = champion
    if own < M_FIRST - 1 or squares == 0:
        return _noise(champion, others(None))
    unit = squares / own
    stable = others(lambda degrees: degrees * unit * f_quantile(_UNSTABLE_P, degrees, own))
    rest = _noise(stable)
    if rest is None or squares > own * rest.sd**2 * f_quantile(GUARD_P, own, rest.nu):
        return _noise(champion)
    return _noise(champion, stable)


def _noise(*groups: Squares) -> Noise | None:
    degrees = sum(each for each, _ in groups)
    return Noise(math.sqrt(math.fsum(squares for _, squares in groups) / degrees), degrees) if degrees else None
