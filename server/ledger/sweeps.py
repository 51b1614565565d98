"""Sweeps and their trials. A trial is written together with its experiment, so a sweep goes on from here after any crash."""

import json
import sqlite3
import time
from typing import Any

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.models import Sweep, Trial


class Sweeps:
    """Every sweep, for good. One that ended stays as it is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sweep(self, id: str) -> Sweep | None:
        """Return the sweep with this id, or None."""
        with self._database.read() as db:
            return _read(db, id)

    def open_sweeps(self, limit: int = -1) -> list[Sweep]:
        """Return the sweeps that have not ended, the oldest first.

        Args:
            limit: the most that are returned; negative: all.
        """
        with self._database.read() as db:
            rows = db.execute("SELECT record FROM sweeps WHERE state = 'open' ORDER BY created_at, id LIMIT ?", (limit,)).fetchall()
        return [Sweep.model_validate_json(row[0]) for row in rows]

    def add_sweep(self, sweep: Sweep, key: str | None, request: str) -> Sweep:
        """Record a new sweep.

        Args:
            sweep: to record.
            key: under which the launch may be repeated, or None.
            request: a hash of the launch, to tell a repetition from another launch under the same key.

        Returns:
            The recorded one: this sweep, or the one that the key was used for before.

        Raises:
            LabError: `key_reused` for another launch under the same key.
        """
        with self._database.write() as db:
            if key is not None:
                row = db.execute("SELECT request, answer FROM answers WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    known = _read(db, json.loads(row[1])[0]) if row[0] == request else None
                    if known is None:
                        raise LabError(
                            "Not launched: this idempotency_key was used before for another launch. Use a new key for a new launch.",
                            "key_reused",
                        )
                    return known
                db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", (key, request, json.dumps([sweep.id]), time.time()))
            db.execute("INSERT INTO sweeps VALUES (?, ?, ?, ?)", (sweep.id, sweep.state, sweep.created_at, sweep.model_dump_json()))
        return sweep

    def move_sweep(self, id: str, **changes: Any) -> Sweep | None:
        """Change a sweep that is open. A `state` among the changes ends it, once.

        Args:
            id: of the sweep.
            **changes: fields of `Sweep`.

        Returns:
            The changed sweep; None if it had ended: then nothing was changed.
        """
        with self._database.write() as db:
            before = _read(db, id)
            return _write(db, before, changes) if before is not None and before.state == "open" else None

    def keep_trial(self, trial: Trial) -> bool:
        """Record a trial that needs no new experiment. Return whether it is: not in a sweep that ended, nor twice."""
        with self._database.write() as db:
            return add_trial(db, trial)

    def trials(self, sweep: str) -> list[Trial]:
        """Return the trials of a sweep by their numbers."""
        with self._database.read() as db:
            rows = db.execute("SELECT record FROM trials WHERE sweep = ? ORDER BY number", (sweep,)).fetchall()
        return [Trial.model_validate_json(row[0]) for row in rows]

    def sweep_of(self, experiment: str) -> str:
        """Return the sweep that an experiment was launched for; empty where there is none."""
        with self._database.read() as db:
            row = db.execute("SELECT sweep FROM trials WHERE experiment = ? ORDER BY sweep LIMIT 1", (experiment,)).fetchone()
        return row[0] if row else ""


def add_trial(db: sqlite3.Connection, trial: Trial) -> bool:
    """Record a trial. Return whether it is: not in a sweep that ended, nor twice."""
    sweep = _read(db, trial.sweep)
    if sweep is None or sweep.state != "open":
        return False
    row = (trial.sweep, trial.number, trial.experiment, trial.model_dump_json())
    return db.execute("INSERT INTO trials VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row).rowcount > 0


def cancel_sweep(db: sqlite3.Connection, id: str, note: str) -> Sweep | None:
    """End a sweep that is open. Return it as it is then; None if it had ended."""
    before = _read(db, id)
    return _write(db, before, {"state": "cancelled", "note": note}) if before is not None and before.state == "open" else None


def own_trainings(db: sqlite3.Connection, id: str) -> list[str]:
    """Return the open experiments that were launched for a sweep. One that another launched, and the sweep only reads, is not among them."""
    query = """
        SELECT experiments.id FROM experiments JOIN trials ON trials.experiment = experiments.id WHERE trials.sweep = ?1
        AND EXISTS (SELECT 1 FROM json_each(experiments.record, '$.tags') WHERE value = ?1)"""
    return [row[0] for row in db.execute(query, (id,)).fetchall()]


def _read(db: sqlite3.Connection, id: str) -> Sweep | None:
    row = db.execute("SELECT record FROM sweeps WHERE id = ?", (id,)).fetchone()
    return Sweep.model_validate_json(row[0]) if row else None


def _write(db: sqlite3.Connection, before: Sweep, changes: dict[str, Any]) -> Sweep:
    after = Sweep.model_validate({**before.model_dump(), **changes, "version": before.version + 1})
    if after.state != "open" and after.ended_at is None:
        after.ended_at = time.time()
    db.execute("UPDATE sweeps SET state = ?, record = ? WHERE id = ?", (after.state, after.model_dump_json(), after.id))
    return after
