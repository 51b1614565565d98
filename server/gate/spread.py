"""Mean and spread of a metric over replicates: the one place where they are computed."""

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def sd(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, or None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def pooled_sd(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the noise between replicates of one commit: the root of the variance, pooled over all commits that have at least two.

    It is None where no commit has two.
    """
    return pooled([(len(group), spread) for group in groups if (spread := sd(group)) is not None])


def pooled(spreads: Sequence[tuple[int, float]]) -> float | None:
    """Return the pooled standard deviation of groups, each given by its size and its own standard deviation."""
    degrees = sum(n - 1 for n, _ in spreads)
    return math.sqrt(math.fsum((n - 1) * spread**2 for n, spread in spreads) / degrees) if degrees else None
