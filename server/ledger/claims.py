"""Claims: which agent works on which idea, as a lease that ends by itself, and which commits try an idea.

A lease is measured by the clock of whoever writes. Where that clock is behind the lease's beginning, because it was set back, the lease
begins again at once: it never lasts longer than its minutes from now. Where the clock was set forward, leases end early, and a holder that
nobody has replaced gets its lease back by its next call.
"""

import sqlite3
import time
from dataclasses import dataclass

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.outbox import post
from autoresearch_mcp.server.models import Memory

_COLUMNS = "seq, idea, holder, text, minutes, renewed_at, until"
ENDING = "(final OR json_extract(verdict, '$.code') IN ('futile', 'promote'))"


@dataclass(frozen=True)
class Claim:
    """A lease on an idea.

    Attributes:
        seq: its place among all claims that there ever were.
        idea: the memory's id.
        holder: who has it.
        text: of the idea.
        minutes: how long it lasts after each renewal.
        renewed_at: when it began, or was renewed last, in Unix seconds.
        until: when it ends.
    """

    seq: int
    idea: str
    holder: str
    text: str
    minutes: float
    renewed_at: float
    until: float


class Claims:
    """All claims, those that ended included."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claims(self) -> list[Claim]:
        """List the claims that are in force, the oldest first."""
        with self._database.read() as db:
            return _in_force(db, time.time())

    def newest_claim(self) -> int:
        """Return the number of the newest claim, ended ones included; 0 where there is none."""
        with self._database.read() as db:
            return _newest(db)

    def claim(
        self, idea: str, text: str, holder: str, minutes: float, most: int, memory: Memory | None = None, after: int | None = None
    ) -> Claim | None:
        """Take an idea, or renew one's own claim on it.

        Args:
            idea: the id of its memory.
            text: of the idea.
            holder: who takes it.
            minutes: how long the claim lasts unless it is renewed.
            most: claims that one holder may have.
            memory: the idea itself, where it is new: written with the claim or not at all.
            after: the newest claim that the caller knows; None for one that doesn't mind others.

        Returns:
            The claim in force: the holder's, or another's, who was first. None where there are newer claims than `after`: nothing was done.

        Raises:
            LabError: `too_many_claims`.
        """
        now = time.time()
        with self._database.write() as db:
            _end_old(db, now)
            if after is not None and _newest(db) > after:
                return None
            in_force = _in_force(db, now)
            there = next((each for each in in_force if each.idea == idea), None)
            if there is not None and there.holder != holder:
                return there
            if there is not None:
                db.execute(
                    "UPDATE claims SET minutes = ?, renewed_at = ?, until = ? WHERE seq = ?", (minutes, now, now + minutes * 60, there.seq)
                )
            else:
                held = [each.idea for each in in_force if each.holder == holder]
                if len(held) >= most:
                    raise LabError(
                        f"Nothing was claimed: {holder} holds {', '.join(held)}, and [swarm] claims in lab.toml allows {most}. "
                        "Release one with claim_idea(id=..., release=true), or finish it.",
                        "too_many_claims",
                    )
                if memory is not None:
                    post(db, "memories", memory)
                db.execute(
                    "INSERT INTO claims (idea, holder, text, minutes, renewed_at, until) VALUES (?, ?, ?, ?, ?, ?)",
                    (idea, holder, text, minutes, now, now + minutes * 60),
                )
            return next(each for each in _in_force(db, now) if each.idea == idea)

    def release_claim(self, idea: str, holder: str) -> bool:
        """End a holder's claim. Return whether it had one."""
        now = time.time()
        with self._database.write() as db:
            _end_old(db, now)
            query = "UPDATE claims SET ended_at = ? WHERE idea = ? AND holder = ? AND ended_at IS NULL"
            return db.execute(query, (now, idea, holder)).rowcount > 0

    def renew_claim(self, idea: str, holder: str) -> Claim | None:
        """Renew a holder's claim for as long as it was taken for, if it ended by time alone and nobody else has the idea as well.

        Returns:
            The claim in force, whose holder may be another; None where there is none.
        """
        now = time.time()
        with self._database.write() as db:
            _end_old(db, now)
            there = next((each for each in _in_force(db, now) if each.idea == idea), None)
            if there is None:
                query = "SELECT seq FROM claims WHERE idea = ? AND holder = ? AND ended_at = until ORDER BY seq DESC LIMIT 1"
                row = db.execute(query, (idea, holder)).fetchone()
                newer = row and db.execute("SELECT 1 FROM claims WHERE idea = ? AND seq > ?", (idea, row[0])).fetchone()
                if row is None or newer is not None:
                    return None
                db.execute("UPDATE claims SET ended_at = NULL WHERE seq = ?", row)
            elif there.holder != holder:
                return there
            db.execute(
                "UPDATE claims SET renewed_at = :now, until = :now + minutes * 60 WHERE idea = :idea AND ended_at IS NULL",
                {"now": now, "idea": idea},
            )
            return next(each for each in _in_force(db, now) if each.idea == idea)

    def try_idea(self, commit: str, idea: str) -> None:
        """Record that a proposal tries an idea."""
        with self._database.write() as db:
            db.execute("INSERT INTO idea_commits VALUES (?, ?) ON CONFLICT DO NOTHING", (commit, idea))

    def ideas_of(self, commit: str) -> list[str]:
        """Return the ideas that a proposal tries."""
        with self._database.read() as db:
            return [row[0] for row in db.execute('SELECT idea FROM idea_commits WHERE "commit" = ?', (commit,))]

    def commits_of_ideas(self) -> dict[str, list[str]]:
        """Return the commits that try each idea, the oldest first."""
        tried = dict[str, list[str]]()
        with self._database.read() as db:
            for idea, commit in db.execute('SELECT idea, "commit" FROM idea_commits ORDER BY rowid'):
                tried.setdefault(idea, []).append(commit)
        return tried

    def suggest(self, memory: Memory) -> bool:
        """Write down an idea of the lab's own: what its two commits combine to. Return whether it is the first for this pair."""
        with self._database.write() as db:
            pair = " ".join(sorted(memory.commits))
            if not db.execute("INSERT INTO combinations VALUES (?, ?) ON CONFLICT DO NOTHING", (pair, memory.id)).rowcount:
                return False
            post(db, "memories", memory)
            return True


def claims_after(db: sqlite3.Connection, seq: int, limit: int) -> list[Claim]:
    """Return the newest claims after one of this number, ended ones included, the oldest first."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM claims WHERE seq > ? ORDER BY seq DESC LIMIT ?", (seq, limit)).fetchall()  # noqa: S608
    return [Claim(*row) for row in reversed(rows)]


def inherit_ideas(db: sqlite3.Connection, commit: str, origin: str) -> None:
    """Record that a commit tries what the one that its change comes from tries."""
    db.execute(
        'INSERT INTO idea_commits SELECT ?, idea FROM idea_commits WHERE "commit" = ? ON CONFLICT DO NOTHING',
        (commit, origin),
    )


def end_decided(db: sqlite3.Connection, commit: str) -> None:
    """End the claims on what a commit tries, once the gate has decided on all commits that try it."""
    db.execute(
        'UPDATE claims SET ended_at = ? WHERE ended_at IS NULL AND idea IN (SELECT idea FROM idea_commits WHERE "commit" = ?) '  # noqa: S608
        "AND NOT EXISTS (SELECT 1 FROM idea_commits AS tries WHERE tries.idea = claims.idea AND NOT EXISTS "
        f'(SELECT 1 FROM decisions WHERE decisions."commit" = tries."commit" AND {ENDING}))',
        (time.time(), commit),
    )


def _end_old(db: sqlite3.Connection, now: float) -> None:
    """End claims whose time is up, and begin those again that lie in the future."""
    db.execute("UPDATE claims SET ended_at = until WHERE ended_at IS NULL AND until <= ?", (now,))
    db.execute(
        "UPDATE claims SET renewed_at = :now, until = :now + minutes * 60 WHERE ended_at IS NULL AND renewed_at > :now", {"now": now}
    )


def _in_force(db: sqlite3.Connection, now: float) -> list[Claim]:
    query = f"SELECT {_COLUMNS} FROM claims WHERE ended_at IS NULL AND until > ? ORDER BY seq"  # noqa: S608
    return [Claim(*row) for row in db.execute(query, (now,))]


def _newest(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM claims").fetchone()[0])
