"""Experiments that have ended: a thin row each, for good, that gate, budget and status read without the lake."""

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.evidence import evidence_of
from autoresearch_mcp.server.models import Experiment, Score

Group = tuple[str, int, float, float, int]  # commit, replicates, mean, sum of squared deviations, 1 where the metric is reported
_THIN = ("id", "commit", "conditions", "device", "state", "val_bpb", "seed", "author", "reported_bpb", "reproduces")


class Results:
    """The thin rows of experiments that have ended."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ended(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of those of these experiments that have ended, by id."""
        return {r["id"]: r for r in self._rows(f"WHERE id IN ({', '.join('?' * len(ids))})", ids)} if ids else {}

    def ended_of(self, commit: str) -> list[dict[str, Any]]:
        """Return the rows of all replicates of a commit, or of the proposal whose code it has, the oldest first."""
        same = 'SELECT ?1 UNION SELECT proposal FROM aliases WHERE "commit" = ?1'
        return self._rows(f'WHERE "commit" IN ({same}) ORDER BY finished_at', [commit])

    def recent(self, limit: int) -> list[dict[str, Any]]:
        """Return the rows of the experiments that ended last, the newest first."""
        return self._rows("ORDER BY finished_at DESC LIMIT ?", [limit])

    def scores(self, commit: str) -> list[Score]:
        """Return the evidence by which the gate judges a commit.

        Returns:
            Every replicate that ended, the oldest first. A second run with the same seed is no replicate.
        """
        rows = [r for r in self.ended_of(commit) if not r["reproduces"]]
        with self._database.read() as db:
            evidence = evidence_of(db, [r["id"] for r in rows])
        return [
            Score(
                experiment=r["id"],
                commit=commit,
                conditions=r["conditions"],
                device=r["device"],
                state=r["state"],
                val_bpb=r["val_bpb"],
                reported_bpb=r["reported_bpb"],
                started=bool(r["started"]),
                finished_at=r["finished_at"],
                **evidence.get(r["id"], {}),
            )
            for r in rows
        ]

    def summaries(self, conditions: str) -> list[Group]:
        """Group what finished under these conditions by commit.

        Args:
            conditions: they never mix verified and reported metrics.

        Returns:
            A group for each commit, the best mean first.
        """
        with self._database.read() as db:
            return db.execute(
                'WITH counted AS (SELECT "commit", coalesce(val_bpb, reported_bpb) AS metric, val_bpb IS NULL AS reported FROM ended '
                "WHERE state = 'finished' AND conditions = ? AND reproduces = ''), "
                'means AS (SELECT "commit", avg(metric) AS mean FROM counted GROUP BY "commit") '
                'SELECT c."commit", count(*), m.mean, sum((metric - m.mean) * (metric - m.mean)), max(reported) FROM counted c '
                'JOIN means m ON m."commit" = c."commit" WHERE metric IS NOT NULL GROUP BY c."commit" ORDER BY m.mean',
                (conditions,),
            ).fetchall()

    def counts(self) -> dict[str, int]:
        """Count all experiments of the lab by state."""
        with self._database.read() as db:
            return dict(
                db.execute(
                    "SELECT state, sum(n) FROM (SELECT state, count(*) AS n FROM experiments GROUP BY state "
                    "UNION ALL SELECT state, count(*) FROM ended GROUP BY state) GROUP BY state"
                ).fetchall()
            )

    def _rows(self, clause: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        with self._database.read() as db:
            cursor = db.execute(f"SELECT * FROM ended {clause}", tuple(values))  # noqa: S608
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor]


def add_result(db: sqlite3.Connection, experiment: Experiment) -> None:
    """Add the thin row of an experiment that ended."""
    thin = {
        **experiment.model_dump(include={*_THIN}),
        "started": experiment.started_at is not None,
        "finished_at": experiment.finished_at or time.time(),
        "hypothesis": experiment.hypothesis[:160],
        "failure": f"{experiment.failure.kind}: {experiment.failure.message[:160]}" if experiment.failure else None,
    }
    names = ", ".join(f'"{name}"' for name in thin)
    db.execute(f"INSERT INTO ended ({names}) VALUES ({', '.join(f':{name}' for name in thin)})", thin)  # noqa: S608
