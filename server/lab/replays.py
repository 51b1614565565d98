"""The gate's rule, asked again and again about the champion against itself, in the order in which its trainings started.

A replay deals a lab's own replicates of the champion out to two sides, one called candidate and one called champion, and asks the rule
after each, as a launch until decided does. Since both sides are the same code, each promotion is a false one. With the candidate's
metrics made better by a gain, the share of promotions is the power.

- In turn: of each pair of neighbours in time one goes to either side, by chance. So the runner spreads replicates.
- In a row: one side's replicates all start before the other's. So they would start without that, and so drift passes for a gain.
"""

import random
from collections.abc import Sequence
from typing import Literal

from autoresearch_mcp.server.gate.boundary import M_CAP
from autoresearch_mcp.server.gate.rule import Noise, Rules, Run, decide
from autoresearch_mcp.server.goal import worsened

Order = Literal["in turn", "in a row"]
ORDERS: tuple[Order, ...] = ("in turn", "in a row")
FEWEST = 16  # replicates of the champion that a replay needs


def promoted(runs: Sequence[Run], noise: Noise, rules: Rules, order: Order, gain: float, replays: int, seed: int = 0) -> float:
    """Return the share of replays in which the rule promotes.

    Args:
        runs: the champion's replicates, in the order of their starts; at least `FEWEST`.
        noise: of the lab.
        rules: of the lab.
        order: how the replicates are dealt out.
        gain: by which the candidate's metrics are made better, on both splits.
        replays: how many.
        seed: of the dealing.
    """
    rng = random.Random(seed)  # noqa: S311
    better = [_better(run, gain, rules) for run in runs]
    most = rules.cap + M_CAP
    yes = 0
    for _ in range(replays):
        first = rng.randint(0, max(0, len(runs) - most))
        window = slice(first, first + most)
        yes += _replay(runs[window], better[window], noise, rules, _sides(len(runs[window]), order, rng))
    return yes / replays


def _sides(count: int, order: Order, rng: random.Random) -> list[bool]:
    """Return for each replicate whether it is dealt to the candidate."""
    first = rng.random() < 0.5
    if order == "in a row":
        return [first] * (count // 2) + [not first] * (count - count // 2)
    sides = list[bool]()
    while len(sides) < count:
        first = rng.random() < 0.5
        sides += [first, not first]
    return sides[:count]


def _replay(runs: Sequence[Run], better: Sequence[Run], noise: Noise, rules: Rules, sides: Sequence[bool]) -> bool:
    candidate, champion = list[Run](), list[Run]()
    for run, improved, ours in zip(runs, better, sides):
        if ours:
            candidate.append(improved)
        else:
            champion.append(run)
        decision = decide(candidate, champion, noise, rules)
        if decision.final or decision.verdict == "futile":
            return decision.verdict == "promote"
    return False


def _better(run: Run, gain: float, rules: Rules) -> Run:
    metric, hidden = worsened(run.metric, -gain, rules.goal), run.hidden
    return Run(metric, None if hidden is None else worsened(hidden, -gain, rules.goal))
