"""Which attempts were started, in which order and beside which others; and what of the queue comes first."""

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.settings import LaunchSettings

LIKE_IT, FEWEST_LIKE_IT = 20, 3  # trainings that say what the next one will take


@dataclass(frozen=True)
class Start:
    """An attempt that was started.

    Attributes:
        experiment: its id.
        commit: what is trained.
        author: who asked for it.
        by_lab: whether the lab launched it as a replicate of the champion.
        beside: what ran at that moment, each with its author.
    """

    experiment: str
    commit: str
    author: str
    by_lab: bool
    beside: tuple[tuple[str, str], ...]


class Starts:
    """A row for each attempt, for good. `OpenExperiments.move` adds it when an experiment leaves the queue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def starts(self, limit: int) -> list[Start]:
        """Return the latest starts, the oldest of them first.

        Args:
            limit: how many at most.
        """
        with self._database.read() as db:
            rows = db.execute(
                'SELECT experiment, "commit", author, by_lab, beside FROM starts ORDER BY seq DESC LIMIT ?', (limit,)
            ).fetchall()
        return [_start(row) for row in reversed(rows)]

    def starts_of(self, ids: Sequence[str]) -> list[Start]:
        """Return the starts of these experiments, the oldest first."""
        with self._database.read() as db:
            marks = ", ".join("?" * len(ids))
            query = f'SELECT experiment, "commit", author, by_lab, beside FROM starts WHERE experiment IN ({marks}) ORDER BY seq'  # noqa: S608
            rows = db.execute(query, tuple(ids)).fetchall()
        return [_start(row) for row in rows]

    def typical_s(self, launch: LaunchSettings, device: str) -> float | None:
        """Return how long a training took, on average over the latest that finished under these settings on this kind of device.

        Args:
            launch: the settings.
            device: the kind of device.

        Returns:
            Seconds from start to end; None where fewer than three have finished.
        """
        with self._database.read() as db:
            rows = db.execute(
                "SELECT e.finished_at - e.started_at FROM starts s CROSS JOIN ended e ON e.id = s.experiment WHERE s.settings = ? "
                "AND e.device = ? AND e.state = 'finished' AND e.finished_at > e.started_at ORDER BY s.seq DESC LIMIT ?",
                (settings_hash(launch.model_dump_json()), device, LIKE_IT),
            ).fetchall()
        return math.fsum(row[0] for row in rows) / len(rows) if len(rows) >= FEWEST_LIKE_IT else None

    def champion_replicates(self, commit: str, launch: LaunchSettings) -> list[str]:
        """Return the experiments that the lab started as replicates of the champion, in that order, but those that were cancelled.

        Args:
            commit: the champion.
            launch: only those that ran under these settings.
        """
        with self._database.read() as db:
            rows = db.execute(
                'SELECT experiment FROM starts s WHERE by_lab AND "commit" = ? AND settings = ? AND NOT EXISTS '
                "(SELECT 1 FROM ended e WHERE e.id = s.experiment AND e.state = 'cancelled') GROUP BY experiment ORDER BY min(seq)",
                (commit, settings_hash(launch.model_dump_json())),
            ).fetchall()
        return [row[0] for row in rows]

    def first_queued(self, first: Sequence[str], limit: int) -> list[tuple[Experiment, int]]:
        """Return the oldest queued experiment of each commit and author, in turn of the authors, with how many more each has.

        What the lab queued for the champion is left out.

        Args:
            first: commits that are among them in any case, if something of them is queued.
            limit: how many of other commits at most, but one of each author.
        """
        query = """
            WITH heads AS (
                SELECT id, min(created_at) AS at, "commit", author, count(*) - 1 AS more
                FROM experiments WHERE state = 'queued' AND id NOT IN (SELECT experiment FROM lab_launches WHERE candidacy = '')
                GROUP BY author, "commit"
            ), turns AS (
                SELECT id, at, more, known, row_number() OVER (PARTITION BY known, author ORDER BY at, id) AS turn
                FROM (SELECT *, "commit" IN (SELECT value FROM json_each(?)) AS known FROM heads)
            ), places AS (
                SELECT id, more, known, turn, at, row_number() OVER (PARTITION BY known ORDER BY turn, at, id) AS place FROM turns
            )
            SELECT record, more FROM places JOIN experiments USING (id) WHERE known OR turn = 1 OR place <= ? ORDER BY turn, at, id"""
        with self._database.read() as db:
            rows = db.execute(query, (json.dumps(list(first)), limit)).fetchall()
        return [(Experiment.model_validate_json(record), more) for record, more in rows]

    def queued_champion_replicates(self) -> list[Experiment]:
        """Return the replicates of the champion that the lab queued and that wait, the oldest first."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT record FROM lab_launches CROSS JOIN experiments ON experiment = id WHERE candidacy = '' AND state = 'queued' "
                "ORDER BY created_at, id"  # CROSS JOIN: the few that the lab launched come first, not the long queue
            ).fetchall()
        return [Experiment.model_validate_json(row[0]) for row in rows]


def add_start(db: sqlite3.Connection, e: Experiment) -> None:
    """Add the row of an attempt that starts now."""
    beside = db.execute(
        "SELECT id, json_extract(record, '$.author') FROM experiments WHERE state IN ('starting', 'running', 'scoring') AND id != ? "
        "ORDER BY created_at, id",
        (e.id,),
    ).fetchall()
    launch = db.execute("SELECT settings FROM launches WHERE experiment = ?", (e.id,)).fetchone()
    db.execute(
        'INSERT INTO starts (experiment, attempt, "commit", author, by_lab, settings, at, beside) VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
        (e.id, e.attempt, e.commit, e.author, e.by_lab, settings_hash(launch[0]) if launch else "", time.time(), json.dumps(beside)),
    )


def settings_hash(launch: str) -> str:
    """Return a short hash of the settings that an experiment was launched under, given as JSON."""
    return hashlib.sha256(launch.encode()).hexdigest()[:16]


def _start(row: tuple[str, str, str, int, str]) -> Start:
    experiment, commit, author, by_lab, beside = row
    return Start(experiment, commit, author, bool(by_lab), tuple((id, name) for id, name in json.loads(beside)))
