"""Launches until decided: what the lab means to train, one replicate after the other, until the gate decides."""

import sqlite3
import time
from typing import Any

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.models import Candidacy, Experiment


class Candidacies:
    """Every candidacy, for good. One that ended stays as it is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def candidacy(self, id: str) -> Candidacy | None:
        """Return the candidacy with this id, or None."""
        with self._database.read() as db:
            return _read(db, id)

    def open_candidacies(self, limit: int = -1) -> list[Candidacy]:
        """Return the candidacies that have not ended.

        Args:
            limit: the most that are returned; negative: all.

        Returns:
            The candidacies in turn of their authors: the oldest of each author, then the second of each, and so on.
        """
        query = """
            SELECT record FROM candidacies WHERE state = 'open'
            ORDER BY row_number() OVER (PARTITION BY json_extract(record, '$.author') ORDER BY created_at, id), created_at, id LIMIT ?"""
        with self._database.read() as db:
            rows = db.execute(query, (limit,)).fetchall()
        return [Candidacy.model_validate_json(row[0]) for row in rows]

    def candidacy_of(self, commit: str) -> Candidacy | None:
        """Return the newest candidacy of a commit, an open one before any other; None if there is none."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT record FROM candidacies WHERE json_extract(record, '$.commit') = ? ORDER BY state = 'open' DESC, created_at DESC LIMIT 1",
                (commit,),
            ).fetchone()
        return Candidacy.model_validate_json(row[0]) if row else None

    def trainings_of(self, id: str) -> list[str]:
        """Return the experiments of a candidacy, the oldest first."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT id FROM ended WHERE candidacy = ?1 UNION SELECT experiment FROM lab_launches WHERE candidacy = ?1 ORDER BY 1", (id,)
            ).fetchall()
        return [row[0] for row in rows]

    def open_trainings(self) -> dict[str, list[str]]:
        """Return the experiments of each candidacy that have not ended."""
        trainings: dict[str, list[str]] = {}
        with self._database.read() as db:
            for id, experiment in db.execute("SELECT candidacy, experiment FROM lab_launches WHERE candidacy != '' ORDER BY 2"):
                trainings.setdefault(id, []).append(experiment)
        return trainings

    def move_candidacy(self, id: str, **changes: Any) -> Candidacy | None:
        """Change a candidacy that is open. A `state` among the changes ends it, once.

        Args:
            id: of the candidacy.
            **changes: fields of `Candidacy`.

        Returns:
            The changed candidacy; None if it had ended: then nothing was changed.
        """
        with self._database.write() as db:
            before = _read(db, id)
            return _write(db, before, changes) if before is not None and before.state == "open" else None


def add_candidacy(db: sqlite3.Connection, candidacy: Candidacy) -> None:
    """Add a new candidacy."""
    row = (candidacy.id, candidacy.state, candidacy.created_at, candidacy.model_dump_json())
    db.execute("INSERT INTO candidacies VALUES (?, ?, ?, ?)", row)


def add_training(db: sqlite3.Connection, e: Experiment) -> bool:
    """Note that the lab queued an experiment itself, and count it for its candidacy.

    Returns:
        Whether it may be queued: not for a candidacy that has ended, changed its commit, or has an experiment that is still open.
    """
    if e.candidacy:
        candidacy = _read(db, e.candidacy)
        taken = db.execute("SELECT 1 FROM lab_launches WHERE candidacy = ?", (e.candidacy,)).fetchone()
        if candidacy is None or candidacy.state != "open" or candidacy.commit != e.commit or taken:
            return False
        _write(db, candidacy, {"replicates": candidacy.replicates + 1})
    if e.candidacy or e.by_lab:
        db.execute("INSERT INTO lab_launches VALUES (?, ?)", (e.id, e.candidacy))
    return True


def end_training(db: sqlite3.Connection, e: Experiment) -> None:
    """Charge an experiment that ended to its candidacy."""
    db.execute("DELETE FROM lab_launches WHERE experiment = ?", (e.id,))
    if e.candidacy and (candidacy := _read(db, e.candidacy)) is not None:
        _write(db, candidacy, {"spent_s": candidacy.spent_s + e.cost_s, "spent_usd": candidacy.spent_usd + e.cost_usd})


def cancel_candidacy(db: sqlite3.Connection, id: str, note: str) -> Candidacy | None:
    """End a candidacy that is open. Returns it as it is then; None if it had ended."""
    before = _read(db, id)
    return _write(db, before, {"state": "cancelled", "note": note}) if before is not None and before.state == "open" else None


def _read(db: sqlite3.Connection, id: str) -> Candidacy | None:
    row = db.execute("SELECT record FROM candidacies WHERE id = ?", (id,)).fetchone()
    return Candidacy.model_validate_json(row[0]) if row else None


def _write(db: sqlite3.Connection, before: Candidacy, changes: dict[str, Any]) -> Candidacy:
    after = Candidacy.model_validate({**before.model_dump(), **changes, "version": before.version + 1})
    if after.state != "open" and after.ended_at is None:
        after.ended_at = time.time()
    db.execute("UPDATE candidacies SET state = ?, record = ? WHERE id = ?", (after.state, after.model_dump_json(), after.id))
    return after
