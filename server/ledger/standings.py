"""Commits by what counts of their replicates. See `tallying` for who writes them."""

import json
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from autoresearch_mcp.server.goal import Goal
from autoresearch_mcp.server.ledger.counting import Counting
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.tallying import catch_up, reading, start_again, sums

_COLUMNS = '"commit", reported, n, mean, squares, steps'
_CANDIDATES = 'conditions = :conditions AND rules & :rules AND "commit" NOT IN (SELECT "commit" FROM measurements)'
_LEFT_OUT = 'AND "commit" NOT IN (SELECT value FROM json_each(:without))'


class Standing(NamedTuple):
    """A commit's replicates that count, under one set of conditions.

    Attributes:
        commit: its full id.
        reported: whether its metrics are reported ones.
        n: how many replicates count.
        mean: of their metrics.
        squares_sum: of their distances from the mean.
        steps: median of the steps that they report; None where none did.
    """

    commit: str
    reported: bool
    n: int
    mean: float
    squares_sum: float = 0.0
    steps: int | None = None

    @property
    def squares(self) -> tuple[int, float]:
        """Degrees of freedom of their spread, and the sum of squares around their mean."""
        return self.n - 1, self.squares_sum

    @property
    def sd(self) -> float | None:
        """Standard deviation of their metrics; None for a single one."""
        return math.sqrt(self.squares_sum / (self.n - 1)) if self.n > 1 else None


class CommitStandings:
    """A row for each commit under each set of conditions. Measurements are no candidates, and are never among them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standings(self, conditions: str, counting: Counting, commits: Collection[str] | None = None) -> dict[str, Standing]:
        """Return the commits of which a replicate counts.

        Args:
            conditions: under which they were measured.
            counting: which replicates count.
            commits: only these of them; None for all.
        """
        named = "" if commits is None else 'AND "commit" IN (SELECT value FROM json_each(:commits))'
        values = {"conditions": conditions, "rules": counting.bit, "commits": json.dumps(list(commits or ()))}
        with reading(self._database) as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM standings WHERE {_CANDIDATES} {named}", values).fetchall()  # noqa: S608
        return {each.commit: each for each in _standings(rows)}

    def best(self, conditions: str, counting: Counting, goal: Goal, without: Collection[str], limit: int) -> list[Standing]:
        """Return the best commits, the best first. See `crowd` for the arguments."""
        values = {"conditions": conditions, "rules": counting.bit, "without": json.dumps(list(without)), "limit": limit}
        query = f"SELECT {_COLUMNS} FROM standings WHERE {_CANDIDATES} {_LEFT_OUT} {_best_first(goal)} LIMIT :limit"  # noqa: S608
        with reading(self._database) as db:
            return _standings(db.execute(query, values))

    def crowd(
        self, conditions: str, counting: Counting, goal: Goal, without: Collection[str], best: int, replicated: int, others: int
    ) -> list[Standing]:
        """Return the commits that tell how all of them stand, the best first.

        Args:
            conditions: under which they were measured.
            counting: which replicates count.
            goal: which way the metric is better.
            without: commits that are left out.
            best: all, where there are no more than `others`; else so many of the best,
            replicated: of the rest so many of the best that have three replicates or more,
            others: and of the rest about so many, evenly over time.
        """
        values = {"conditions": conditions, "rules": counting.bit, "without": json.dumps(list(without))}
        among = f"FROM standings WHERE {_CANDIDATES} {_LEFT_OUT}"
        order = _best_first(goal)
        with reading(self._database) as db:
            count = db.execute(f"SELECT count(*) {among}", values).fetchone()[0]
            if count <= others:
                rows = db.execute(f"SELECT {_COLUMNS} {among} {order}", values).fetchall()
            else:
                step = {"step": -(-count // others), "best": best, "replicated": replicated}
                rows = db.execute(
                    f"WITH best AS (SELECT rowid AS id {among} {order} LIMIT :best), "  # noqa: S608
                    f"replicated AS (SELECT rowid AS id {among} AND n >= 3 {order} LIMIT :best + :replicated), "
                    f"chosen AS (SELECT id FROM best UNION SELECT * FROM (SELECT id FROM replicated WHERE id NOT IN (SELECT id FROM best) "
                    f"LIMIT :replicated) UNION SELECT rowid {among} AND rowid % :step = 0) "
                    f"SELECT {_COLUMNS} FROM standings WHERE rowid IN (SELECT id FROM chosen) {order}",
                    values | step,
                ).fetchall()
        return _standings(rows)

    def spread(
        self, conditions: str, counting: Counting, without: Collection[str], limit: Callable[[int], float] | None = None
    ) -> tuple[int, float]:
        """Add up the spreads of all commits: their degrees of freedom, and their sums of squares around each mean.

        Args:
            conditions: under which they were measured.
            counting: which replicates count.
            without: commits that are left out.
            limit: the largest sum of squares of a commit that is pooled, by its degrees of freedom.
        """
        values = {"conditions": conditions, "rules": counting.bit, "without": json.dumps(list(without))}
        sizes = (
            "WITH RECURSIVE sizes(n) AS (SELECT (SELECT min(n) FROM standings WHERE conditions = :conditions AND n > 1) UNION ALL SELECT "
            "(SELECT min(n) FROM standings WHERE conditions = :conditions AND n > sizes.n) FROM sizes WHERE n IS NOT NULL) "
            "SELECT n FROM sizes WHERE n IS NOT NULL"
        )
        of_size, within = "standings", "n > 1"
        with reading(self._database) as db:
            if limit is not None:
                values |= {"limits": json.dumps({n: limit(n - 1) for (n,) in db.execute(sizes, values)})}
                of_size, within = "json_each(:limits) CROSS JOIN standings", "n = CAST(key AS INTEGER) AND squares <= json_each.value"
            rows = db.execute(
                f"SELECT count(*) * (n - 1), total(squares) FROM {of_size} WHERE {_CANDIDATES} {_LEFT_OUT} AND {within} GROUP BY n",  # noqa: S608
                values,
            ).fetchall()
        return sum(degrees for degrees, _ in rows), math.fsum(squares for _, squares in rows)

    def newest_conditions(self, device: str) -> str:
        """Return the conditions under which a replicate was measured last on this kind of device; empty where none was."""
        with reading(self._database) as db:
            row = db.execute("SELECT conditions FROM newest_conditions WHERE device = ?", (device,)).fetchone()
        return row[0] if row else ""

    def recount(self) -> bool:
        """Make all sums over what ended anew, from the rows themselves. Return whether any of them was wrong."""
        with self._database.write() as db:
            before = sums(db)
            start_again(db)
            catch_up(db)
            return sums(db) != before


def _best_first(goal: Goal) -> str:
    """Return the order in which the best commits come first, as an index has them."""
    return "ORDER BY " + ", ".join(f"{name} {'DESC' if goal == 'max' else 'ASC'}" for name in ("mean", "rules", "n", '"commit"'))


def _standings(rows: Iterable[tuple[Any, ...]]) -> list[Standing]:
    return [Standing(commit, reported == 1, n, mean, squares, steps) for commit, reported, n, mean, squares, steps in rows]
