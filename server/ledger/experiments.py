"""Experiments from the queue to their end, and the answers to launches that may be repeated."""

import json
import math
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import budget, candidacies, sweeps
from autoresearch_mcp.server.ledger.cleaning import cleaned
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.news import add_news
from autoresearch_mcp.server.ledger.outbox import post
from autoresearch_mcp.server.ledger.records import Records
from autoresearch_mcp.server.ledger.results import add_result
from autoresearch_mcp.server.ledger.starts import add_start
from autoresearch_mcp.server.models import (
    ACTIVE_STATES,
    BUDGET,
    OWNER,
    TERMINAL_STATES,
    Candidacy,
    Experiment,
    ExperimentState,
    Sweep,
    Trial,
)
from autoresearch_mcp.server.settings import LaunchSettings

_NAMED = 8  # ids that news names
_WHOLE = budget.Share()  # of one who may use all of the lab


class OpenExperiments:
    """Experiments that have not ended. Each moves only from the states that the caller names, and ends once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records = Records()

    def enqueue(
        self,
        experiments: Sequence[Experiment],
        total_s: float,
        key: str | None,
        request: str,
        total_usd: float = math.inf,
        launch: LaunchSettings | None = None,
        candidacy: Candidacy | None = None,
        share: budget.Share = _WHOLE,
        trial: Trial | None = None,
    ) -> list[Experiment] | None:
        """Queue experiments and hold back what they are expected to cost, all or none.

        Args:
            experiments: the new ones.
            total_s: device seconds of the whole lab.
            key: under which the launch may be repeated, or None.
            request: a hash of the launch, to tell a repetition from another launch under the same key.
            total_usd: money of the whole lab.
            launch: the settings that the budget was reserved for, and that the experiments run under; None leaves that to the runner.
            candidacy: a new one, which the experiments belong to.
            share: what their author may use.
            trial: of a sweep, which the one experiment measures.

        Returns:
            The experiments; None if the key was used for this launch before, or if their candidacy or sweep may have no other experiment
            now: then nothing was queued.

        Raises:
            LabError: `over_budget`, `over_share`, or `key_reused` for another launch under the same key.
        """
        with self._database.write() as db:
            if key is not None and _answer(db, key, request) is not None:
                return None
            budget.check_queue(db, experiments, total_s, total_usd)
            budget.check_share(db, experiments, share)
            if candidacy is not None:
                candidacies.add_candidacy(db, candidacy)
            if trial is not None and not sweeps.add_trial(db, trial):
                return None
            for e in experiments:
                if not candidacies.add_training(db, e):
                    return None
                row = (e.id, e.commit, e.state, e.held_s, e.created_at, e.model_dump_json())
                db.execute("INSERT INTO experiments VALUES (?, ?, ?, ?, ?, ?)", row)
                if launch is not None:
                    db.execute("INSERT INTO launches VALUES (?, ?)", (e.id, launch.model_dump_json()))
            if key is not None:
                answer = json.dumps([*([candidacy.id] if candidacy else []), *(e.id for e in experiments)])
                db.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", (key, request, answer, time.time()))
        return list(experiments)

    def answer(self, key: str, request: str) -> list[str] | None:
        """Look up an earlier launch under this key.

        Returns:
            The ids of what it queued: the candidacy, if there is one, and the experiments. None if there was no such launch.

        Raises:
            LabError: `key_reused`.
        """
        with self._database.read() as db:
            return _answer(db, key, request)

    def experiment(self, id: str) -> Experiment | None:
        """Return the whole record of an experiment that has not ended or is still in the outbox, or None."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT record FROM experiments WHERE id = ? UNION ALL SELECT record FROM outbox WHERE tbl = 'experiments' AND id = ?",
                (id, id),
            ).fetchone()
        return Experiment.model_validate_json(row[0]) if row else None

    def open_experiments(self, *states: ExperimentState, limit: int = -1) -> list[Experiment]:
        """List experiments that have not ended.

        Args:
            *states: only those in these states; none named: all.
            limit: the most that are returned, the oldest; negative: all.

        Returns:
            The experiments, the oldest first.
        """
        where = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        with self._database.read() as db:
            query = f"SELECT record FROM experiments {where} ORDER BY created_at, id LIMIT ?"  # noqa: S608
            rows = db.execute(query, (*states, limit)).fetchall()
        return self._records.parse([row[0] for row in rows], are_all=not states and limit < 0)

    def launch_settings(self, id: str) -> LaunchSettings | None:
        """Return the settings under which an open experiment was queued.

        Returns:
            None if it has ended, or another version queued it, whose settings this one doesn't know.
        """
        with self._database.read() as db:
            row = db.execute("SELECT settings FROM launches WHERE experiment = ?", (id,)).fetchone()
        return _launch(row[0]) if row else None

    def next_launch(self) -> LaunchSettings | None:
        """Return the settings of the open experiment that comes first: the oldest that left the queue, else the oldest in it.

        Returns:
            None if no experiment is open, or another version queued it, whose settings this one doesn't know.
        """
        with self._database.read() as db:
            row = db.execute(
                "SELECT settings FROM experiments LEFT JOIN launches ON experiment = id ORDER BY state = 'queued', created_at, id LIMIT 1"
            ).fetchone()
        return _launch(row[0]) if row and row[0] else None

    def open_launches(self) -> list[tuple[LaunchSettings, int]]:
        """Return the settings that open experiments run under, each with the number of experiments."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT settings, count(*) FROM launches JOIN experiments ON experiment = id GROUP BY settings ORDER BY min(created_at)"
            ).fetchall()
        return [(launch, count) for settings, count in rows if (launch := _launch(settings))]

    def move(self, id: str, states: Sequence[ExperimentState], **changes: Any) -> Experiment | None:
        """Change an experiment. A terminal `state` among the changes ends it, once.

        Args:
            id: of the experiment.
            states: the states from which it may move.
            **changes: fields of `Experiment`; `cost_usd` bills the attempt.

        Returns:
            The changed experiment; None if it was in another state or had ended: then nothing was changed.
        """
        with self._database.write() as db:
            return _move(db, id, states, changes)

    def start(self, id: str, total_s: float, total_usd: float = math.inf) -> Experiment | None:
        """Begin the next attempt of a queued experiment, and hold back the most that it can cost.

        Args:
            id: of the experiment.
            total_s: device seconds of the whole lab.
            total_usd: money of the whole lab.

        Returns:
            The changed experiment; None if it is no longer queued.

        Raises:
            LabError: `over_budget`: nothing was changed.
        """
        with self._database.write() as db:
            row = db.execute("SELECT record FROM experiments WHERE id = ? AND state = 'queued'", (id,)).fetchone()
            if row is None:
                return None
            e = Experiment.model_validate_json(row[0])
            budget.check_start(db, e, total_s, total_usd)
            return _move(db, id, ["queued"], {"state": "starting", "attempt": e.attempt + 1, "started_at": time.time()})

    def request_cancel(self, id: str, by: str = BUDGET) -> Experiment | None:
        """Cancel at once what is queued; mark what runs, for the runner to stop.

        Args:
            id: of the experiment.
            by: who asks, for the record; `BUDGET` where the lab's own cap stops it.

        Returns:
            The changed experiment; None if it had ended.
        """
        with self._database.write() as db:
            return _cancel(db, id, by)

    def cancel(self, ids: Sequence[str], by: str, reason: str = "") -> dict[str, str]:
        """Cancel experiments, and launches until decided and sweeps with what is trained for them. Tell their authors, where another asked.

        Args:
            ids: of all three.
            by: who asks, for the record.
            reason: for the authors.

        Returns:
            The new states by id, without what had ended.
        """
        states, owners = dict[str, str](), dict[str, list[str]]()
        who = "The lab's owner" if by == OWNER else by
        with self._database.write() as db:
            for id in ids:
                changed: Experiment | Candidacy | Sweep | None
                if id.startswith("c-"):
                    changed = candidacies.cancel_candidacy(db, id, f"Cancelled by {who}. {reason}".rstrip())
                    for (training,) in db.execute("SELECT experiment FROM lab_launches WHERE candidacy = ?", (id,)).fetchall():
                        _cancel(db, training, by)
                elif id.startswith("s-"):
                    changed = sweeps.cancel_sweep(db, id, f"Cancelled by {who}. {reason}".rstrip())
                    for training in sweeps.own_trainings(db, id):
                        _cancel(db, training, by)
                else:
                    changed = _cancel(db, id, by)
                if changed is not None:
                    states[id] = changed.state
                    owners.setdefault(changed.author, []).append(id)
            for owner, theirs in owners.items():
                if owner != by:
                    what = ", ".join(theirs[:_NAMED]) + (f" and {len(theirs) - _NAMED} more" if len(theirs) > _NAMED else "")
                    text = f"{who} cancelled {what}, which you launched{f': {reason}' if reason else '.'}"
                    add_news(db, "cancelled", by, theirs[0], text, owner)
        return states


def _cancel(db: sqlite3.Connection, id: str, by: str) -> Experiment | None:
    """Cancel at once what is queued; mark what runs, for the runner to stop. Returns the changed experiment, or None."""
    at_once = {"state": "cancelled", "finished_at": time.time(), "cancelled_by": by}
    return _move(db, id, ["queued"], at_once) or _move(db, id, ACTIVE_STATES, {"cancel_requested": True, "cancelled_by": by})


def _launch(text: str) -> LaunchSettings | None:
    try:
        return LaunchSettings.model_validate_json(text)
    except ValidationError:  # such as a profile that there was in an older version
        return None


def _answer(db: sqlite3.Connection, key: str, request: str) -> list[str] | None:
    row = db.execute("SELECT request, answer FROM answers WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    if row[0] != request:
        raise LabError(
            "Not queued: this idempotency_key was used before for another launch. Use a new key for a new launch; "
            "repeat a key only to repeat the same call.",
            "key_reused",
        )
    ids: list[str] = json.loads(row[1])
    return ids


def _move(db: sqlite3.Connection, id: str, states: Sequence[ExperimentState], changes: dict[str, Any]) -> Experiment | None:
    row = db.execute("SELECT record FROM experiments WHERE id = ?", (id,)).fetchone()
    before = Experiment.model_validate_json(row[0]) if row else None
    if before is None or before.state not in states:
        return None
    after = Experiment.model_validate({**before.model_dump(), **changes, "version": before.version + 1})
    if after.state == "starting" and before.state == "queued":
        add_start(db, after)
    if "cost_usd" in changes:
        budget.add_bill(db, id, before.attempt, before.author, after.cost_usd - before.cost_usd)
    if after.state not in TERMINAL_STATES:
        changed = (after.state, after.held_s, after.model_dump_json(), id)
        db.execute("UPDATE experiments SET state = ?, reserved_s = ?, record = ? WHERE id = ?", changed)
        return after
    after = cleaned(after)
    after.reserved_s = after.expected_s = after.reserved_usd = 0.0
    if after.state == "cancelled":
        after.fault, after.cancelled_running = "cancel", after.attempt > 0
    db.execute("DELETE FROM experiments WHERE id = ?", (id,))
    db.execute("DELETE FROM launches WHERE experiment = ?", (id,))
    add_result(db, after)
    candidacies.end_training(db, after)
    budget.add_spent(db, after.cost_s)
    post(db, "experiments", after)
    return after
