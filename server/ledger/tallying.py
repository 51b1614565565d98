"""Sums over all that ended, kept beside the rows themselves, so that no reader goes through a year of them.

Whoever ends an experiment brings them up to date in the same transaction. Programs of an older version don't; a reader sees that by the
number of the row up to which they go, and does it first (see `reading`). So an upgrade and `repair` only have to begin at the first row.
"""

import itertools
import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median_low

from autoresearch_mcp.server.ledger.counting import EVERY, Counting, Fact, Models
from autoresearch_mcp.server.ledger.database import Database

THE_LAB = "the lab"
TRAINED = "started AND NOT by_lab AND reproduces = ''"  # of ended rows: what somebody's idea took
_TALLIED_TO, _NEWEST = "SELECT value FROM totals WHERE name = 'tallied_to'", "SELECT coalesce(max(rowid), 0) FROM ended"
_SUMS = ("ended_states", "ended_of_agents", "newest_conditions", "since_promotion", "standings")
_FACTS = (
    "SELECT e.\"commit\", e.id, e.conditions, e.val_bpb, e.reported_bpb, v.test_bpb, coalesce(v.sandbox, '') != 'unsandboxed', v.weights, "
    "v.answers, json_extract(e.circumstances, '$.steps') FROM ({}) AS fresh "
    'CROSS JOIN ended e ON e."commit" = fresh."commit" AND e.conditions = fresh.conditions '
    "LEFT JOIN evidence v ON v.experiment = e.id "
    "WHERE e.state = 'finished' AND e.reproduces = '' AND coalesce(e.val_bpb, e.reported_bpb) IS NOT NULL "
    'ORDER BY e."commit", e.conditions, e.rowid'
)
_FRESH = "SELECT DISTINCT \"commit\", conditions FROM ended WHERE rowid > ? AND state = 'finished' AND reproduces = ''"


@contextmanager
def reading(database: Database) -> Iterator[sqlite3.Connection]:
    """Read the sums, brought up to date first where a program of an older version ended something.

    Yields:
        A connection, within a transaction.
    """
    with database.read() as db:
        if db.execute(f"SELECT ({_TALLIED_TO}) = ({_NEWEST})").fetchone()[0]:
            yield db
            return
    with database.write() as db:
        catch_up(db)
    with database.read() as db:
        yield db


def catch_up(db: sqlite3.Connection) -> None:
    """Take in what ended since the last call."""
    done, newest = _tallied_to(db), _newest(db)
    if done == newest:
        return
    db.execute(
        "INSERT INTO ended_states SELECT state, count(*) FROM ended WHERE rowid > ? GROUP BY state "
        "ON CONFLICT DO UPDATE SET n = n + excluded.n",
        (done,),
    )
    db.execute(
        "INSERT INTO ended_of_agents SELECT author, by_lab, sum(max(finished_at - started_at, 0)) FROM ended "
        "WHERE rowid > ? AND started_at IS NOT NULL GROUP BY author, by_lab ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds",
        (done,),
    )
    db.execute(
        "INSERT INTO newest_conditions SELECT device, conditions FROM (SELECT device, conditions, max(rowid) FROM ended WHERE rowid > ? "
        "AND state = 'finished' AND reproduces = '' AND coalesce(val_bpb, reported_bpb) IS NOT NULL GROUP BY device) WHERE true "
        "ON CONFLICT DO UPDATE SET conditions = excluded.conditions",
        (done,),
    )
    _count_since_promotion(db, done)
    _rank(db, _FRESH, (done,))
    db.execute("UPDATE totals SET value = ? WHERE name = 'tallied_to'", (newest,))


def start_again(db: sqlite3.Connection) -> None:
    """Forget all sums: the next reader makes them anew."""
    for table in _SUMS:
        db.execute(f"DELETE FROM {table}")  # noqa: S608
    db.execute("UPDATE totals SET value = 0 WHERE name = 'tallied_to'")


def sums(db: sqlite3.Connection) -> dict[str, set[tuple[object, ...]]]:
    """Return all sums but those since a promotion, which begin anew with the next end: rows with nine digits, as the last ones vary."""
    return {
        table: {tuple(f"{cell:.9g}" if isinstance(cell, float) else cell for cell in row) for row in db.execute(f"SELECT * FROM {table}")}  # noqa: S608
        for table in _SUMS
        if table != "since_promotion"
    }


def evidence_changed(db: sqlite3.Connection, experiment: str) -> None:
    """Rank the commit of an experiment anew, if it has ended already."""
    ended = 'SELECT "commit", conditions FROM ended WHERE id = ?'
    if db.execute(ended, (experiment,)).fetchone():
        _rank(db, ended, (experiment,))
        db.execute("UPDATE totals SET value = value + 1 WHERE name = 'corrections'")


def last_promotion(db: sqlite3.Connection) -> float:
    """Return when the champion changed last, in Unix seconds; 0 where it never did."""
    row = db.execute("SELECT json_extract(record, '$.created_at') FROM promotions WHERE done ORDER BY seq DESC LIMIT 1").fetchone()
    return float(row[0]) if row else 0.0


def _tallied_to(db: sqlite3.Connection) -> int:
    return int(db.execute(_TALLIED_TO).fetchone()[0])


def _newest(db: sqlite3.Connection) -> int:
    return int(db.execute(_NEWEST).fetchone()[0])


def _count_since_promotion(db: sqlite3.Connection, done: int) -> None:
    since = last_promotion(db)
    known = db.execute("SELECT at FROM since_promotion").fetchone()
    if known is None or known[0] != since:
        db.execute("DELETE FROM since_promotion")
        db.execute("INSERT INTO since_promotion VALUES (?, 0, 0, 0)", (since,))
        done = 0
    counted = f"finished_at > ?2 AND {TRAINED}"
    db.execute(
        "UPDATE since_promotion SET (trainings, commits, seconds) = (SELECT trainings + count(*), commits + count(DISTINCT CASE WHEN NOT "  # noqa: S608
        f'EXISTS (SELECT 1 FROM ended o WHERE o."commit" = e."commit" AND o.rowid <= ?1 AND {counted}) THEN e."commit" END), '
        f"seconds + coalesce(sum(max(finished_at - started_at, 0)), 0) FROM ended e WHERE e.rowid > ?1 AND {counted})",
        (done, since),
    )


def _rank(db: sqlite3.Connection, which: str, values: tuple[object, ...]) -> None:
    """Compute the standings anew of the commits and conditions that a query names."""
    rows = db.execute(_FACTS.format(which), values)
    for (commit, conditions), group in itertools.groupby(rows, key=lambda row: (row[0], row[2])):
        facts = [fact for fact in (Fact(*row[1:]) for row in group) if math.isfinite(fact.metric)]
        db.execute('DELETE FROM standings WHERE conditions = ? AND "commit" = ?', (conditions, commit))
        for counts, rules in _by_rules(facts).items():
            values_ = [fact.metric for fact in counts]
            centre = math.fsum(values_) / len(values_)
            squares = math.fsum((value - centre) ** 2 for value in values_)
            steps = [fact.steps for fact in counts if fact.steps]
            row = (conditions, commit, rules, len(counts), centre, squares, median_low(steps) if steps else None, counts[0].val_bpb is None)
            db.execute("INSERT INTO standings VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _by_rules(facts: list[Fact]) -> dict[tuple[Fact, ...], int]:
    """Return what counts of a commit's replicates under one set of conditions, with the rules by which it does, as a sum of their bits."""
    found = dict[tuple[Fact, ...], int]()
    seen = dict[tuple[object, ...], tuple[Fact, ...]]()
    kinds = {(fact.val_bpb is None, fact.test_bpb is None, fact.confined): fact for fact in facts}
    for counting in EVERY:
        alike = (counting.fine, *(counting.exclusion(fact) for fact in kinds.values()))
        if alike not in seen:
            seen[alike] = _counting(facts, counting)
        if counts := seen[alike]:
            found[counts] = found.get(counts, 0) + counting.bit
    return found


def _counting(facts: list[Fact], counting: Counting) -> tuple[Fact, ...]:
    models = Models(counting)
    return tuple(fact for fact in facts if counting.exclusion(fact) is None and models.add(fact))
