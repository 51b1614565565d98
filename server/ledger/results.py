"""Experiments that have ended: a thin row each, for good, that gate, budget and status read without the lake."""

import itertools
import json
import math
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from autoresearch_mcp.server.keeping import keep
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.tallying import THE_LAB, TRAINED, catch_up, reading
from autoresearch_mcp.server.models import Circumstances, Experiment, ExperimentState, Score

_THIN = (
    "id",
    "commit",
    "conditions",
    "device",
    "state",
    "val_bpb",
    "seed",
    "author",
    "reported_bpb",
    "reproduces",
    "created_at",
    "started_at",
    "by_lab",
    "candidacy",
)
_KEPT = 64  # commits whose replicates stay in memory
_FACTS = (  # of replicates, for the gate: see `_score`
    'SELECT e.rowid, e."commit", e.id, e.conditions, e.device, e.state, e.val_bpb, e.reported_bpb, e.seed, e.author, e.started, '
    "e.created_at, e.started_at, e.finished_at, e.circumstances, e.by_lab, "
    "(SELECT coalesce(min(s.seq), 0) FROM starts s WHERE s.experiment = e.id), v.sandbox, v.test_bpb, v.weights, v.answers "
    "FROM ended e LEFT JOIN evidence v ON v.experiment = e.id"
)


@dataclass(frozen=True)
class Trained:
    """What was trained in some time, the champion's replicates not counted.

    Attributes:
        trainings: how many were started and ended.
        commits: of how many commits.
        device_s: seconds from their starts to their ends.
    """

    trainings: int
    commits: int
    device_s: float


class Ended(NamedTuple):
    """An experiment that ended, as thin as a picture of the whole campaign needs it."""

    row: int  # grows with each that ends
    id: str
    commit: str
    conditions: str
    device: str
    state: ExperimentState
    val_bpb: float | None
    reported_bpb: float | None
    author: str
    hypothesis: str
    by_lab: bool
    created_at: float | None
    started_at: float | None
    finished_at: float

    @property
    def metric(self) -> float | None:
        """The metric by which it is compared, as `Experiment.metric`."""
        value = self.reported_bpb if self.val_bpb is None else self.val_bpb
        return value if self.state == "finished" and value is not None and math.isfinite(value) else None


Row = tuple[  # what `Ended` names
    int,
    str,
    str,
    str,
    str,
    ExperimentState,
    float | None,
    float | None,
    str,
    str,
    bool,
    float | None,
    float | None,
    float,
]


class Endings(Sequence[Ended]):
    """The first of some rows, each of which gets its names when it is asked for.

    Hundreds of thousands of plain tuples of texts and numbers cost the garbage collector nothing; as many named ones would stop it for a second.

    Args:
        rows: others may be added at their end meanwhile.
        count: how many of them.
    """

    def __init__(self, rows: Sequence[Row], count: int) -> None:
        self._rows = rows
        self._count = count

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    @overload
    def __getitem__(self, place: int) -> Ended: ...

    @overload
    def __getitem__(self, place: slice) -> list[Ended]: ...

    def __getitem__(self, place: int | slice) -> Ended | list[Ended]:
        """Return one row, or some."""
        places = range(self._count)[place]
        return Ended._make(self._rows[places]) if isinstance(places, int) else [Ended._make(self._rows[each]) for each in places]

    def __iter__(self) -> Iterator[Ended]:
        """Yield all."""
        return map(Ended._make, self.rows())

    def rows(self) -> Iterator[Row]:
        """Yield all without names."""
        return itertools.islice(self._rows, self._count)


class Results:
    """The thin rows of experiments that have ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._scores: dict[tuple[str, str, float], tuple[int, tuple[Score, ...]]] = {}

    def ended(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the rows of those of these experiments that have ended, by id."""
        return {r["id"]: r for r in self._rows(f"WHERE id IN ({', '.join('?' * len(ids))})", ids)} if ids else {}

    def ended_of(self, commit: str) -> list[dict[str, Any]]:
        """Return the rows of all replicates of a commit, or of the proposal whose code it has, the oldest first."""
        same = 'SELECT ?1 UNION SELECT proposal FROM aliases WHERE "commit" = ?1'
        return self._rows(f'WHERE "commit" IN ({same}) ORDER BY finished_at', [commit])

    def beside(self, id: str, since: float, limit: int = 64) -> list[str]:
        """List the other experiments that held a slot at some time since then, the oldest first.

        Args:
            id: of the experiment that is left out.
            since: seconds since the epoch.
            limit: the most that are returned.
        """
        with self._database.read() as db:
            rows = db.execute(
                "SELECT id FROM ended WHERE started AND finished_at > ?1 AND id <> ?2 "
                "UNION SELECT id FROM experiments WHERE state <> 'queued' AND id <> ?2 ORDER BY id LIMIT ?3",
                (since, id, limit),
            ).fetchall()
        return [row[0] for row in rows]

    def recent(self, limit: int) -> list[dict[str, Any]]:
        """Return the rows of the experiments that ended last, the newest first."""
        return self._rows("ORDER BY finished_at DESC LIMIT ?", [limit])

    def recent_of(self, author: str, limit: int) -> list[tuple[str, str]]:
        """Return the ids and commits of the experiments of an author that ended last, the newest first."""
        query = 'SELECT id, "commit" FROM ended WHERE author = ? AND by_lab = 0 ORDER BY finished_at DESC LIMIT ?'
        with self._database.read() as db:
            return db.execute(query, (author, limit)).fetchall()

    def conditions_of(self, commit: str, device: str) -> str:
        """Return the conditions under which a commit was measured last on a kind of device; where it never was, those of what ended last.

        Returns:
            Empty where that was on other kinds of device only.
        """
        same = '"commit" IN (SELECT ?1 UNION SELECT proposal FROM aliases WHERE "commit" = ?1)'
        measured = f"SELECT conditions FROM ended WHERE {same} AND state = 'finished' AND reproduces = ''"  # noqa: S608
        last = "SELECT conditions FROM (SELECT conditions, device FROM ended ORDER BY finished_at DESC LIMIT 1) WHERE device = ?"
        with self._database.read() as db:
            row = db.execute(f"{measured} AND device = ?2 ORDER BY finished_at DESC, rowid DESC LIMIT 1", (commit, device)).fetchone()
            if row is None and db.execute(f"{measured} LIMIT 1", (commit,)).fetchone() is None:
                row = db.execute(last, (device,)).fetchone()
        return row[0] if row else ""

    def scores(self, commit: str) -> list[Score]:
        """Return the evidence by which the gate judges a commit. What ended is read once: it never changes, unless its evidence does.

        Returns:
            Every replicate that ended, the oldest first. A second run with the same seed is no replicate.
        """
        with self._database.read() as db:
            alias = db.execute('SELECT proposal FROM aliases WHERE "commit" = ?', (commit,)).fetchone()
            corrections = db.execute("SELECT value FROM totals WHERE name = 'corrections'").fetchone()[0]
            key = (commit, alias[0] if alias else commit, corrections)
            known = self._scores.get(key, (0, ()))
            rows = db.execute(
                f"{_FACTS} WHERE e.\"commit\" IN (?, ?) AND e.rowid > ? AND e.reproduces = '' ORDER BY e.rowid",
                (*key[:2], known[0]),
            ).fetchall()
        if rows:
            scores = [*known[1], *(_score(commit, *facts) for _, _, *facts in rows)]
            known = rows[-1][0], tuple(sorted(scores, key=lambda score: score.finished_at))
        keep(self._scores, key, known, _KEPT)
        return list(known[1])

    def finished_after(self, row: int, limit: int = -1) -> list[tuple[int, Score]]:
        """Return the replicates that finished and were recorded after a row.

        Args:
            row: the row's number; 0 for all.
            limit: the most that are returned, the oldest; negative: all.

        Returns:
            Each with the number of its row, the oldest first. A second run with the same seed is no replicate.
        """
        with self._database.read() as db:
            rows = db.execute(
                f"{_FACTS} WHERE e.rowid > ? AND e.state = 'finished' AND e.reproduces = '' ORDER BY e.rowid LIMIT ?",
                (row, limit),
            ).fetchall()
        return [(number, _score(*facts)) for number, *facts in rows]

    def ended_after(self, row: int) -> list[Row]:
        """Return what ended after a row, 0 for all, in the order in which it was recorded."""
        with self._database.read() as db:
            return db.execute(
                'SELECT rowid, id, "commit", conditions, device, state, val_bpb, reported_bpb, author, hypothesis, by_lab, created_at, '
                "started_at, finished_at FROM ended WHERE rowid > ? ORDER BY rowid",
                (row,),
            ).fetchall()

    def trained_since(self, since: float) -> Trained:
        """Return what was trained and ended after a moment in Unix seconds. It is known at once for the last promotion's."""
        with reading(self._database) as db:
            known = "SELECT trainings, commits, seconds FROM since_promotion WHERE at = ?"
            sums = 'count(*), count(DISTINCT "commit"), coalesce(sum(max(finished_at - started_at, 0)), 0)'
            counted = f"SELECT {sums} FROM ended WHERE finished_at > ? AND {TRAINED}"  # noqa: S608
            row = db.execute(known, (since,)).fetchone() or db.execute(counted, (since,)).fetchone()
        return Trained(*row)

    def recent_failures(self, limit: int) -> list[bool]:
        """Return of the last trainings, the newest first, whether their own code failed. Cancelled ones don't count."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT state != 'finished' AND coalesce(json_extract(circumstances, '$.fault'), 'code') = 'code' FROM ended "
                "WHERE started AND NOT by_lab AND state != 'cancelled' ORDER BY finished_at DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [bool(row[0]) for row in rows]

    def seconds_by_author(self, limit: int) -> dict[str, float]:
        """Return the seconds from start to end of all trainings that ended, by who launched them, the largest sum first."""
        with reading(self._database) as db:
            return dict(
                db.execute(
                    "SELECT CASE by_lab WHEN 1 THEN ? ELSE author END AS who, sum(seconds) AS s FROM ended_of_agents "
                    "GROUP BY who ORDER BY s DESC LIMIT ?",
                    (THE_LAB, limit),
                ).fetchall()
            )

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the states of those of these experiments that are open or have ended, by id."""
        wanted = "id IN (SELECT value FROM json_each(?1))"
        with self._database.read() as db:
            rows = db.execute(
                f"SELECT id, state FROM experiments WHERE {wanted} UNION ALL SELECT id, state FROM ended WHERE {wanted}",  # noqa: S608
                (json.dumps(list(ids)),),
            )
            return dict(rows.fetchall())

    def counts(self) -> dict[str, int]:
        """Count all experiments of the lab by state."""
        with reading(self._database) as db:
            return dict(
                db.execute(
                    "SELECT state, sum(n) FROM (SELECT state, count(*) AS n FROM experiments GROUP BY state "
                    "UNION ALL SELECT state, n FROM ended_states) GROUP BY state"
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
        "circumstances": experiment.model_dump_json(include=set(Circumstances.model_fields), exclude_defaults=True),
        "failure": f"{experiment.failure.kind}: {experiment.failure.message[:160]}" if experiment.failure else None,
    }
    names = ", ".join(f'"{name}"' for name in thin)
    db.execute(f"INSERT INTO ended ({names}) VALUES ({', '.join(f':{name}' for name in thin)})", thin)  # noqa: S608
    catch_up(db)


def _score(
    commit: str,
    id: str,
    conditions: str,
    device: str,
    state: ExperimentState,
    val_bpb: float | None,
    reported_bpb: float | None,
    seed: int,
    author: str,
    started: int,
    created_at: float | None,
    started_at: float | None,
    finished_at: float,
    circumstances: str,
    by_lab: int,
    launch: int,
    sandbox: str | None,
    test_bpb: float | None,
    weights: str | None,
    answers: str | None,
) -> Score:
    return Score(
        experiment=id,
        commit=commit,
        conditions=conditions,
        device=device,
        state=state,
        val_bpb=val_bpb,
        reported_bpb=reported_bpb,
        seed=seed,
        author=author,
        started=bool(started),
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        launch=launch,
        by_lab=bool(by_lab),
        confined=sandbox != "unsandboxed",
        test_bpb=test_bpb,
        weights=weights,
        answers=answers,
        **({"metrics": {}, "beside": []} | json.loads(circumstances)),  # pydantic takes long to copy its defaults, for each of many rows
    )
