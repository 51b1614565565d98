"""The gate, asked again and again about the champion against itself, in the order in which its trainings started.

A replay deals a lab's own replicates of the champion out to two sides, one called candidate and one called champion, and asks the gate
after each, as an agent may. Since both sides are the same code, each promotion is a false one. With a gain taken off the candidate's
metrics, the share of promotions is the power.

- In turn: of each pair of neighbours in time one goes to either side, by chance. So the runner spreads replicates.
- In a row: one side's replicates all start before the other's. So they would start without that, and so drift passes for a gain.
"""

import random
from collections.abc import Callable, Sequence
from typing import Literal

from autoresearch_mcp.server.models import Score

Order = Literal["in turn", "in a row"]
ORDERS: tuple[Order, ...] = ("in turn", "in a row")
Decide = Callable[[Sequence[Score], Sequence[Score]], bool]
"""Whether the gate promotes this candidate over this champion; each side in the order of its starts."""

FEWEST = 16  # replicates of the champion that a replay needs
_MOST = 32  # that one replay deals out: as many as count on both sides


def promoted(scores: Sequence[Score], decide: Decide, order: Order, gain: float, replays: int, seed: int = 0) -> float:
    """Return the share of replays in which the gate promotes.

    Args:
        scores: of the champion's replicates, in the order of their starts; at least `FEWEST`.
        decide: the gate.
        order: how they are dealt out.
        gain: by which the candidate's metrics are lowered, on both splits.
        replays: how many.
        seed: of the dealing.
    """
    rng = random.Random(seed)  # noqa: S311
    return sum(_replay(_window(scores, rng), decide, order, gain, rng) for _ in range(replays)) / replays


def _window(scores: Sequence[Score], rng: random.Random) -> Sequence[Score]:
    """Return neighbours in time, as many as one replay deals out."""
    first = rng.randint(0, max(0, len(scores) - _MOST))
    return scores[first : first + _MOST]


def _replay(scores: Sequence[Score], decide: Decide, order: Order, gain: float, rng: random.Random) -> bool:
    candidate, champion = list[Score](), list[Score]()
    first = rng.random() < 0.5
    for number, score in enumerate(scores):
        if order == "in turn":
            first = rng.random() < 0.5 if number % 2 == 0 else not first
        elif number == len(scores) // 2:
            first = not first
        if not first:
            champion.append(score)
            continue
        candidate.append(_better(score, gain))
        if decide(candidate, champion):
            return True
    return decide(candidate, champion)


def _better(score: Score, gain: float) -> Score:
    lowered = {name: value - gain for name in ("val_bpb", "reported_bpb", "test_bpb") if (value := getattr(score, name)) is not None}
    return score.model_copy(update={"commit": f"{score.commit} better", **lowered})
