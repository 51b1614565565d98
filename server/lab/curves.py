"""Loss curves made short: cut to a few points that a person or a model reads at once."""

from collections.abc import Sequence
from itertools import pairwise

Curve = Sequence[tuple[float, float]]
POINTS = 12


def thinned(curve: Curve, points: int = POINTS) -> list[tuple[float, float]]:
    """Return a curve as the means of at most so many equal pieces of it: a piece's last share, and its mean loss."""
    if len(curve) <= points:
        return [(round(share, 3), round(loss, 4)) for share, loss in curve]
    cuts = [round(n * len(curve) / points) for n in range(points + 1)]
    pieces = [curve[start:end] for start, end in pairwise(cuts)]
    return [(round(piece[-1][0], 3), round(sum(loss for _, loss in piece) / len(piece), 4)) for piece in pieces]
