"""The ledger's file: connections, transactions, and what SQLite's errors mean to a caller."""

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import schema

_BUSY_S = 30.0


class Database:
    """The SQLite file at `path`, made if it is missing. Thread-safe: each transaction borrows a connection.

    Args:
        path: of the file, whose folder exists.

    Raises:
        LabError: `newer_lab`, `read_only`, `disk_full`, `busy` or `ledger_unusable`, here and from every method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._watch_lock = threading.Lock()
        self._here = _Here()
        with self._errors():
            self._watch = self._connect()
            if not schema.is_current(self._watch):
                with _transaction(self._watch, "IMMEDIATE"):
                    schema.upgrade(self._watch)

    def close(self) -> None:
        """Close all connections. Nothing may be called afterwards."""
        self._watch.close()
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def changes(self) -> int:
        """Return a number that differs from the last answer when anything was committed since. Costs microseconds."""
        return self._committed() if self._here.db is None else self._here.changes

    def _committed(self) -> int:
        return int(self.glimpse("PRAGMA data_version")[0])

    def glimpse(self, query: str) -> tuple[Any, ...]:
        """Return the row of a query that reads little, as it is on disk now. It costs about what `changes` does, so an event loop may ask."""
        with self._watch_lock, self._errors():
            row: tuple[Any, ...] = self._watch.execute(query).fetchone()
            return row

    def fault(self) -> str:
        """Read the whole file.

        Returns:
            What SQLite finds wrong with it; empty if nothing is.
        """
        with self.read() as db:
            finding = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
        return "" if finding == "ok" else finding

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Run a block on one snapshot of the file: that of `snapshot`, or its own.

        Yields:
            A connection, within a transaction.
        """
        if self._here.db is not None:
            with self._errors():
                yield self._here.db
            return
        with self._borrow() as db, _transaction(db, "DEFERRED"):
            yield db

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run a block alone among writers. What it wrote is on disk when the block is left; after an exception nothing of it is.

        Yields:
            A connection, within a transaction.
        """
        with self._borrow() as db, _transaction(db, "IMMEDIATE"):
            yield db
        if self._here.db is not None:
            with contextlib.suppress(LabError), self._errors():  # what was written is on disk; without it, each read has its own snapshot
                self._look()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have all reads of this thread see one state of the file while a block runs, of which `changes` tells. What it writes, it sees.

        It is for answers that take a hundred reads: each is one statement then, so it waits for the interpreter once and not three times.
        """
        if self._here.db is not None:
            yield
            return
        with self._borrow() as db:
            self._here.db = db
            try:
                self._look()
                yield
            finally:
                self._here.db = None
                if db.in_transaction:
                    db.execute("ROLLBACK")  # it only read

    def _look(self) -> None:
        """Begin the snapshot anew."""
        assert self._here.db is not None
        if self._here.db.in_transaction:
            self._here.db.execute("ROLLBACK")
        self._here.changes = self._committed()  # before the rows: what is committed in between is read again, never missed
        self._here.db.execute("BEGIN DEFERRED")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        return db

    @contextmanager
    def _borrow(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            try:
                db = self._idle.get_nowait()
            except queue.Empty:
                db = self._connect()
            try:
                yield db
            finally:
                self._idle.put(db)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "readonly" in text or "unable to open" in text:
                message, code = (
                    f"The lab's ledger {self._path} cannot be written ({text}): make its folder writable. Nothing was recorded.",
                    "read_only",
                )
            elif "full" in text or "disk I/O" in text:
                message, code = (
                    f"Nothing was recorded: the disk of {self._path} is full or failing ({text}). Free space, then call again.",
                    "disk_full",
                )
            elif "locked" in text or "busy" in text:
                message, code = f"Nothing was recorded: other processes kept the ledger busy for {_BUSY_S:.0f} s. Call again.", "busy"
            else:
                raise
            raise LabError(message, code) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError):
                raise
            raise LabError(
                f"The lab's ledger {self._path} is unusable ({error}). Restore it from a backup; nothing was changed.", "ledger_unusable"
            ) from error


class _Here(threading.local):
    """What a thread reads while it has a snapshot."""

    db: sqlite3.Connection | None = None
    changes: int = 0


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Commit what a block does, or roll it back after an exception. `kind` is SQLite's DEFERRED or IMMEDIATE."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
