"""What was said of a proposal after it was made: its text corrected, a note added, or the proposal withdrawn. In order, for good."""

import sqlite3
import time
from dataclasses import dataclass
from typing import Literal

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.news import add_news
from autoresearch_mcp.server.models import OWNER, Experiment, Proposal

Kind = Literal["corrected", "note", "withdrawn", "restored"]
_COLUMNS = 'seq, "commit", at, author, kind, text'


@dataclass(frozen=True)
class Remark:
    """One remark.

    Attributes:
        seq: its place among all.
        commit: of the proposal.
        at: Unix seconds.
        author: who made it.
        kind: `corrected` holds the text of before.
        text: the note, or why.
    """

    seq: int
    commit: str
    at: float
    author: str
    kind: Kind
    text: str


class Remarks:
    """All remarks, for good."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def restore(self, commit: str, author: str) -> None:
        """Bring a withdrawn proposal back."""
        with self._database.write() as db:
            _add(db, commit, author, "restored", "")

    def withdraw(self, commit: str, author: str, reason: str, owner: str) -> None:
        """Withdraw a proposal, and tell its author where another did."""
        with self._database.write() as db:
            _add(db, commit, author, "withdrawn", reason)
            if author != owner:
                who = "The lab's owner" if author == OWNER else author
                add_news(
                    db, "withdrawn", author, commit, f"{who} withdrew your proposal {commit[:12]}{f': {reason}' if reason else '.'}", owner
                )

    def remarks(self, commit: str) -> list[Remark]:
        """Return the remarks on a proposal, the oldest first."""
        with self._database.read() as db:
            rows = db.execute(f'SELECT {_COLUMNS} FROM remarks WHERE "commit" = ? ORDER BY seq', (commit,)).fetchall()  # noqa: S608
        return [Remark(*row) for row in rows]

    def remarks_after(self, seq: int) -> list[Remark]:
        """Return the remarks on all proposals that are newer than one, the oldest first."""
        with self._database.read() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM remarks WHERE seq > ? ORDER BY seq", (seq,)).fetchall()  # noqa: S608
        return [Remark(*row) for row in rows]

    def withdrawn(self) -> frozenset[str]:
        """Return the commits of the proposals that are withdrawn now."""
        query = "SELECT \"commit\", kind, max(seq) FROM remarks WHERE kind IN ('withdrawn', 'restored') GROUP BY \"commit\""
        with self._database.read() as db:
            return frozenset(commit for commit, kind, _ in db.execute(query) if kind == "withdrawn")

    def amend(self, commit: str, author: str, hypothesis: str, title: str) -> bool:
        """Correct a proposal's text until its first result, also in what is queued of it. Later, keep the text as a note.

        Args:
            commit: of a proposal.
            author: who does.
            hypothesis: the new text.
            title: the same in a few words.

        Returns:
            Whether it was corrected.
        """
        with self._database.write() as db:
            proposal = Proposal.model_validate_json(db.execute('SELECT record FROM proposals WHERE "commit" = ?', (commit,)).fetchone()[0])
            has_result = db.execute("SELECT 1 FROM ended WHERE \"commit\" = ? AND state != 'cancelled'", (commit,)).fetchone() is not None
            if has_result:
                _add(db, commit, author, "note", hypothesis)
                return False
            _add(db, commit, author, "corrected", proposal.hypothesis)
            after = proposal.model_copy(update={"hypothesis": hypothesis, "title": title})
            db.execute('UPDATE proposals SET record = ? WHERE "commit" = ?', (after.model_dump_json(), commit))
            for id, record in db.execute('SELECT id, record FROM experiments WHERE "commit" = ?', (commit,)).fetchall():
                e = Experiment.model_validate_json(record)
                changed = e.model_copy(update={"hypothesis": hypothesis, "version": e.version + 1})
                db.execute("UPDATE experiments SET record = ? WHERE id = ?", (changed.model_dump_json(), id))
        return True


def _add(db: sqlite3.Connection, commit: str, author: str, kind: Kind, text: str) -> None:
    db.execute('INSERT INTO remarks ("commit", at, author, kind, text) VALUES (?, ?, ?, ?, ?)', (commit, time.time(), author, kind, text))
