"""Which attempts were started, in which order and beside which others; and what of the queue comes first."""

import functools
import hashlib
import json
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.records import Records
from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.settings import LaunchSettings

_LATEST = 256  # starts that are kept in memory
_Head = tuple[float, str, str, str]  # when it was queued, its id, author and commit: the oldest of an author and a commit
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

    @functools.cached_property
    def authors(self) -> tuple[str, ...]:
        """Whose trainings ran then."""
        return tuple(author for _, author in self.beside)


class Starts:
    """A row for each attempt, for good. `OpenExperiments.move` adds it when an experiment leaves the queue."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records = Records()
        self._known: dict[int, Start] = {}  # of the latest, by number: a start never changes

    def starts(self, limit: int) -> list[Start]:
        """Return the latest starts, the oldest of them first.

        Args:
            limit: how many at most.
        """
        known, which = self._known, "seq IN (SELECT value FROM json_each(?))"
        with self._database.read() as db:
            numbers = [row[0] for row in db.execute("SELECT seq FROM starts ORDER BY seq DESC LIMIT ?", (limit,))]
            fresh = [number for number in numbers if number not in known]
            query = f'SELECT seq, experiment, "commit", author, by_lab, beside FROM starts WHERE {which}'  # noqa: S608
            rows = db.execute(query, (json.dumps(fresh),)).fetchall() if fresh else []
        latest = known | {row[0]: _start(row[1:]) for row in rows}
        starts = {number: latest[number] for number in reversed(numbers)}
        if len(starts) <= _LATEST:
            self._known = starts
        return list(starts.values())

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
            count, seconds = db.execute(
                "SELECT count(*), avg(seconds) FROM (SELECT e.finished_at - e.started_at AS seconds FROM starts s "
                "CROSS JOIN ended e ON e.id = s.experiment WHERE s.settings = ? "
                "AND e.device = ? AND e.state = 'finished' AND e.finished_at > e.started_at ORDER BY s.seq DESC LIMIT ?)",
                (settings_hash(launch.model_dump_json()), device, LIKE_IT),
            ).fetchone()
        return seconds if count >= FEWEST_LIKE_IT else None

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
        """Return the oldest queued experiment of each commit and author, in turn of the authors, with how many more of its commit wait.

        What the lab queued for the champion is left out.

        Args:
            first: commits that are among them in any case, if something of them is queued.
            limit: how many of other commits at most, but one of each author.
        """
        with self._database.read() as db:
            lab = {row[0] for row in db.execute("SELECT experiment FROM lab_launches WHERE candidacy = ''")}
            waiting = dict[str, int]()
            known, others = _heads_of(db, first, lab, waiting), _first_heads(db, frozenset(first), lab, limit)
            listed = sorted([*_turns(known), *(each for n, each in enumerate(_turns(others)) if each[0] == 1 or n < limit)])
            ids, commits = (
                json.dumps([id for *_, id, _, _ in listed]),
                json.dumps([commit for *_, commit in listed if commit not in waiting]),
            )
            texts = dict(db.execute("SELECT id, record FROM experiments WHERE id IN (SELECT value FROM json_each(?))", (ids,)))
            counts = 'SELECT "commit", count(*) FROM experiments WHERE state = \'queued\' AND "commit" IN (SELECT value FROM json_each(?)) GROUP BY 1'
            waiting |= dict(db.execute(counts, (commits,)).fetchall())
        experiments = self._records.parse([texts[id] for *_, id, _, _ in listed], are_all=False)
        return [(e, waiting[e.commit] - 1) for e in experiments]

    def queued_champion_replicates(self) -> list[Experiment]:
        """Return the replicates of the champion that the lab queued and that wait, the oldest first."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT record FROM lab_launches CROSS JOIN experiments ON experiment = id WHERE candidacy = '' AND state = 'queued' "
                "ORDER BY created_at, id"  # CROSS JOIN: the few that the lab launched come first, not the long queue
            ).fetchall()
        return self._records.parse([row[0] for row in rows], are_all=False)


def _heads_of(db: sqlite3.Connection, commits: Sequence[str], lab: Collection[str], waiting: dict[str, int]) -> list[_Head]:
    """Return the oldest queued experiment of each of these commits and each author. Counts in `waiting` what is queued of each commit."""
    heads = dict[tuple[str, str], _Head]()
    rows = db.execute(
        'SELECT created_at, id, author, "commit" FROM experiments WHERE state = \'queued\' AND "commit" IN (SELECT value FROM json_each(?)) '
        "ORDER BY created_at, id",
        (json.dumps(list(commits)),),
    )
    for at, id, author, commit in rows.fetchall():
        waiting[commit] = waiting.get(commit, 0) + 1
        if id not in lab:
            heads.setdefault((author, commit), (at, id, author, commit))
    return list(heads.values())


def _first_heads(db: sqlite3.Connection, but: Collection[str], lab: Collection[str], limit: int) -> list[_Head]:
    """Return of each author the oldest queued experiments of their first commits, so many that `limit` of all of them are the first."""
    authors = (
        "WITH RECURSIVE authors(name) AS (SELECT min(author) FROM experiments WHERE state = 'queued' UNION ALL SELECT "
        "(SELECT min(author) FROM experiments WHERE state = 'queued' AND author > name) FROM authors WHERE name IS NOT NULL) "
        "SELECT name FROM authors WHERE name IS NOT NULL"
    )
    names = [row[0] for row in db.execute(authors)]
    at_once = 2 * math.ceil(limit / max(1, len(names)))  # mostly enough
    reading = {name: _queued_of(db, name, at_once) for name in names}
    heads: dict[str, dict[str, _Head]] = {name: {} for name in names}
    total, turn = 0, 0
    while reading and (total < limit or turn == 0):
        turn += 1
        for name, rows in list(reading.items()):
            for at, id, commit in rows:
                if commit not in but and id not in lab and commit not in heads[name]:
                    heads[name][commit] = at, id, name, commit
                    total += 1
                    break
            else:
                del reading[name]
    return [head for of_author in heads.values() for head in of_author.values()]


def _queued_of(db: sqlite3.Connection, author: str, at_once: int) -> Iterator[tuple[float, str, str]]:
    """Yield when each queued experiment of an author was queued, its id and its commit, the oldest first. Reads so many at once."""
    own = (
        "SELECT created_at, id, \"commit\" FROM experiments WHERE state = 'queued' AND author = ? AND (created_at, id) > (?, ?) "
        "ORDER BY created_at, id LIMIT ?"
    )
    last = -math.inf, ""
    while rows := db.execute(own, (author, *last, at_once)).fetchall():
        yield from rows
        last = rows[-1][:2]


def _turns(heads: Iterable[_Head]) -> list[tuple[int, float, str, str, str]]:
    """Return heads in turn of their authors, each with its turn."""
    turns, placed = Counter[str](), []
    for at, id, author, commit in sorted(heads):
        turns[author] += 1
        placed.append((turns[author], at, id, author, commit))
    return sorted(placed)


def add_start(db: sqlite3.Connection, e: Experiment) -> None:
    """Add the row of an attempt that starts now."""
    beside = db.execute(
        "SELECT id, author FROM experiments INDEXED BY experiments_by_author WHERE state IN ('starting', 'running', 'scoring') AND id != ? "
        "ORDER BY created_at, id",  # the index has all of it: no record is read
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
