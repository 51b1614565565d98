"""Where means are known to lie, over a campaign: the champion's as its replicates come in, and each open candidate's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.gate.spread import mean

NEWEST = 16  # replicates of the champion that count
_TWO_SIDED = 1.96  # standard errors on either side, for 95 %


@dataclass(frozen=True)
class Interval:
    """A mean and how surely it is known.

    Attributes:
        number: of the experiment after which this was known.
        mean: of the replicates until then.
        half: of the 95 % interval, on either side.
        n: how many replicates.
    """

    number: int
    mean: float
    half: float
    n: int

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half


def band(measured: Sequence[tuple[int, float]], noise: float, fewest: int) -> list[Interval]:
    """Return a champion's interval after each of its replicates.

    Args:
        measured: number and metric of its replicates, in the order in which they ended.
        noise: standard deviation between replicates of one commit.
        fewest: how many replicates the first interval rests on.
    """
    intervals = []
    for upto in range(fewest, len(measured) + 1):
        newest = [value for _, value in measured[max(0, upto - NEWEST) : upto]]
        intervals.append(_interval(measured[upto - 1][0], newest, noise))
    return intervals


def candidates(measured: Mapping[str, Sequence[tuple[int, float]]], noise: float) -> Iterator[tuple[str, Interval]]:
    """Yield the interval of each candidate at its newest replicate, in the order of their first ones.

    Args:
        measured: number and metric of a candidate's replicates, by commit, in the order in which they ended.
        noise: standard deviation between replicates of one commit.
    """
    for commit, replicates in sorted(measured.items(), key=lambda item: item[1][0]):
        yield commit, _interval(replicates[-1][0], [value for _, value in replicates], noise)


def _interval(number: int, values: Sequence[float], noise: float) -> Interval:
    return Interval(number, mean(values), _TWO_SIDED * noise / math.sqrt(len(values)), len(values))
