"""News: what happened that callers should hear of, once each, and how far each has heard.

`recipient` names the one whom a piece concerns; an empty one is everybody but its author. Pieces stay for good, in order, so a caller can
also ask for all after one that it knows.
"""

import sqlite3
import time
from dataclasses import dataclass

from autoresearch_mcp.server.ledger.database import Database

_NEWEST = "SELECT coalesce(max(seq), 0) FROM news"
_CONCERNS = "(recipient = :caller OR (recipient = '' AND author != :caller))"


@dataclass(frozen=True)
class Piece:
    """A piece of news.

    Attributes:
        seq: its place among all.
        at: Unix seconds.
        kind: such as `champion` or `cancelled`.
        author: who did it.
        recipient: whom it concerns; empty for everybody but its author.
        subject: the id of what it is about, such as a promotion's.
        text: for the recipient; may be empty where the subject says all.
    """

    seq: int
    at: float
    kind: str
    author: str
    recipient: str
    subject: str
    text: str


class News:
    """All pieces of news, and the last that each caller was told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest_news(self) -> int:
        """Return the number of the newest piece; 0 where there is none. It costs microseconds."""
        return int(self._database.glimpse(_NEWEST)[0])

    def news_after(self, seq: int, caller: str, limit: int = 100) -> list[Piece]:
        """List the news that concerns a caller, the oldest first.

        Args:
            seq: only what is newer than this piece; 0 for all.
            caller: by name.
            limit: how many at most, the newest.
        """
        with self._database.read() as db:
            return _after(db, seq, caller, limit)

    def has_news(self, caller: str) -> bool:
        """Return whether `unheard` has something for a caller."""
        with self._database.read() as db:
            heard = _heard(db, caller)
            return heard != _newest(db) and bool(_unheard(db, heard, caller, 1))

    def unheard(self, caller: str, limit: int = 20) -> list[Piece]:
        """Return what a caller has not heard yet, and count it as heard.

        One who calls for the first time hears only what is addressed to it.

        Args:
            caller: by name.
            limit: how many at most, the newest.

        Returns:
            The pieces, the oldest first.
        """
        with self._database.read() as db:
            if _heard(db, caller) == _newest(db):
                return []
        with self._database.write() as db:
            heard, newest = _heard(db, caller), _newest(db)
            pieces = _unheard(db, heard, caller, limit)
            db.execute("INSERT INTO heard VALUES (?, ?) ON CONFLICT (caller) DO UPDATE SET seq = excluded.seq", (caller, newest))
        return pieces


def add_news(db: sqlite3.Connection, kind: str, author: str, subject: str, text: str = "", recipient: str = "") -> None:
    """Add a piece of news. See `Piece`."""
    db.execute(
        "INSERT INTO news (at, kind, author, recipient, subject, text) VALUES (?, ?, ?, ?, ?, ?)",
        (time.time(), kind, author, recipient, subject, text),
    )


def addressed_after(db: sqlite3.Connection, seq: int, caller: str, limit: int) -> list[Piece]:
    """Return the newest pieces after one of this number that name the caller, the oldest first."""
    return _after(db, seq, caller, limit, "recipient = :caller AND recipient != ''")


def _newest(db: sqlite3.Connection) -> int:
    return int(db.execute(_NEWEST).fetchone()[0])


def _heard(db: sqlite3.Connection, caller: str) -> int | None:
    row = db.execute("SELECT seq FROM heard WHERE caller = ?", (caller,)).fetchone()
    return int(row[0]) if row else None


def _unheard(db: sqlite3.Connection, heard: int | None, caller: str, limit: int) -> list[Piece]:
    return addressed_after(db, 0, caller, limit) if heard is None else _after(db, heard, caller, limit)


def _after(db: sqlite3.Connection, seq: int, caller: str, limit: int, which: str = _CONCERNS) -> list[Piece]:
    query = (
        "SELECT seq, at, kind, author, recipient, subject, text FROM news "  # noqa: S608
        f"WHERE seq > :seq AND {which} ORDER BY seq DESC LIMIT :limit"
    )
    rows = db.execute(query, {"seq": seq, "caller": caller, "limit": limit}).fetchall()
    return [Piece(*row) for row in reversed(rows)]
