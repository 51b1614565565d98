"""The drift watch: how often it warns on machines that hold still, that drift, and that jump, and what those do to the gate.

python -m tests.bench.drift
"""

import random
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from autoresearch_mcp.server.gate.boundary import M_CAP, M_MIN
from autoresearch_mcp.server.gate.drift import chart
from autoresearch_mcp.server.runner.order import spacing
from tests.bench.campaigns import World, repeat, simulate

REPLICATES = 60  # of the champion, in each series
SERIES = 200
CAMPAIGNS = 60
MACHINES = {
    "no drift": World(),
    "measured drift": World(fast=0.69),
    "and slow drift of 10 %": World(fast=0.59, slow=0.1),
    "and slow drift of 30 %": World(fast=0.39, slow=0.3),
    "and jumps of 1 sd": World(fast=0.69, jump=1),
    "and jumps of 2 sd": World(fast=0.69, jump=2),
    "and jumps of 3 sd": World(fast=0.69, jump=3),
    "t5 noise": World(tails=5),
}


def champion(world: World, rng: random.Random) -> list[float]:
    """Return the champion's replicates, as the order of launches spreads them over time."""
    noise, values = world.noise(rng), list[float]()
    for m in range(REPLICATES):
        values.append(next(noise))
        for _ in range(spacing(m) - 1):
            next(noise)
    return values


def warned(world: World) -> float:
    """Return the share of the time in which the status warns, from the champion's first 8 replicates on."""
    looks = list[bool]()
    for number in range(SERIES):
        places = chart(champion(world, random.Random(number)))
        looks += [max(places[max(0, m - M_CAP) : m]) >= 1 for m in range(M_MIN, REPLICATES + 1)]
    return sum(looks) / len(looks)


def false(world: World) -> float:
    """Return how many of 100 candidates without a gain are promoted."""
    campaigns = repeat(CAMPAIGNS, lambda rng: simulate(world, 0.0, 100, rng))
    return 100 * sum(each.promoted for each in campaigns) / sum(each.decided for each in campaigns)


def tables() -> Iterator[Table]:
    """Compute everything, and yield the table."""
    table = Table("machine", "false per 100", "warned of the time", title="The drift watch")
    for name, world in MACHINES.items():
        table.add_row(name, f"{false(world):.2f}", f"{warned(world):.0%}")
    yield table


if __name__ == "__main__":
    for each in tables():
        Console().print(each)
