"""Commits by what counts of their replicates, and the noise between replicates, under the lab's rules of now."""

import math
from collections.abc import Callable, Collection

from autoresearch_mcp.server.gate.noise import Limit, Others, Squares
from autoresearch_mcp.server.goal import Goal
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.ledger.counting import Counting
from autoresearch_mcp.server.ledger.standings import Standing
from autoresearch_mcp.server.settings import PromotionSection

CROWD = 1000  # commits that are looked at in a large lab: the best, and an even sample of the others
BEST = 100


class Standings:
    """What the ledger says of the commits. It keeps nothing, and costs about the same in a lab of any age. Thread-safe."""

    def __init__(self, ledger: Ledger, rules: Callable[[], PromotionSection]) -> None:
        """Read nothing yet. `rules` returns by what rules replicates count now."""
        self._ledger = ledger
        self._rules = rules

    @property
    def _counting(self) -> Counting:
        return Counting.of(self._rules())

    def all(self, conditions: str) -> dict[str, Standing]:
        """Return every commit with a replicate that counts under these conditions."""
        return self._ledger.standings(conditions, self._counting)

    def of(self, conditions: str, commits: Collection[str]) -> dict[str, Standing]:
        """Return those of some commits that have a replicate that counts under these conditions."""
        return self._ledger.standings(conditions, self._counting, commits)

    def crowd(self, conditions: str, goal: Goal, without: Collection[str]) -> list[Standing]:
        """Return the commits to look at: all, or in a large lab the best ones, those with replicates, and an even sample of the others."""
        return self._ledger.crowd(conditions, self._counting, goal, without, BEST, BEST, CROWD)

    def best(self, conditions: str, goal: Goal, without: Collection[str]) -> list[Standing]:
        """Return the best of the crowd, the best first."""
        return self._ledger.best(conditions, self._counting, goal, without, BEST)

    def noise(self, conditions: str) -> float | None:
        """Return the standard deviation between replicates of one commit, pooled over all commits under these conditions.

        It is None where no commit has two replicates.
        """
        degrees, squares = self._ledger.spread(conditions, self._counting, ())
        return math.sqrt(squares / degrees) if degrees else None

    def spreads(self, conditions: str, without: Collection[str]) -> Others:
        """Return the spreads of all commits but these under these conditions."""
        counting = self._counting

        def add_up(limit: Limit | None) -> Squares:
            return self._ledger.spread(conditions, counting, without, limit)

        return add_up

    def newest(self, device: str) -> str:
        """Return the conditions under which a replicate was measured last on this kind of device; empty where none was."""
        return self._ledger.newest_conditions(device)
