"""The outbox: records that were acknowledged and can't be read back from the lake yet."""

import sqlite3
import time
from collections.abc import Sequence

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.ideas import add_idea
from autoresearch_mcp.server.models import Experiment, Memory, Promotion, Record, Table

_MODELS: dict[str, type[Experiment] | type[Memory] | type[Promotion]] = {
    "experiments": Experiment,
    "memories": Memory,
    "promotions": Promotion,
}


class Outbox:
    """Ended experiments, memories and promotions, until `settle` lets go of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remember(self, memory: Memory) -> None:
        """Keep a new memory."""
        with self._database.write() as db:
            post(db, "memories", memory)

    def import_records(self, table: Table, records: Sequence[Record]) -> None:
        """Post records from elsewhere to the lake. They count for nothing else, and one that waits already stays as it is."""
        with self._database.write() as db:
            for record in records:
                db.execute(
                    "INSERT INTO outbox (tbl, id, version, record, posted_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (table, record.id, record.version, record.model_dump_json(), time.time()),
                )

    def outbox(self, table: Table, limit: int = -1) -> list[Record]:
        """List records that wait to be flushed to the lake.

        Args:
            table: which records.
            limit: how many at most; -1 for all.

        Returns:
            The records, the oldest first.
        """
        with self._database.read() as db:
            rows = db.execute("SELECT record FROM outbox WHERE tbl = ? ORDER BY seq LIMIT ?", (table, limit)).fetchall()
        return [_MODELS[table].model_validate_json(row[0]) for row in rows]

    def unflushed(self) -> int:
        """Count the records of all tables that wait to be flushed."""
        with self._database.read() as db:
            return int(db.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def waiting_since(self) -> float | None:
        """Return since when the oldest record here has waited to be flushed; None if none waits. An imported record waits since its import."""
        with self._database.read() as db:
            row = db.execute("SELECT posted_at FROM outbox WHERE posted_at IS NOT NULL ORDER BY seq LIMIT 1").fetchone()
        return row[0] if row else None

    def settle(self, table: Table, versions: dict[str, int]) -> None:
        """Let go of records that were read back from the lake.

        Args:
            table: which records.
            versions: the version that was read back, by id. A newer version that waits here stays.
        """
        with self._database.write() as db:
            db.executemany(
                "DELETE FROM outbox WHERE tbl = ? AND id = ? AND version <= ?", [(table, id, version) for id, version in versions.items()]
            )

    def pending(self, table: Table) -> list[Record]:
        """Return, from one snapshot, what queries lay over the lake's rows: the outbox, and experiments that have not ended."""
        with self._database.read() as db:
            rows = db.execute("SELECT record FROM outbox WHERE tbl = ? ORDER BY seq", (table,)).fetchall()
            if table == "experiments":
                rows += db.execute("SELECT record FROM experiments ORDER BY created_at").fetchall()
        return [_MODELS[table].model_validate_json(row[0]) for row in rows]


def post(db: sqlite3.Connection, table: Table, record: Record) -> None:
    """Add a record to the outbox.

    Raises:
        sqlite3.IntegrityError: a record with this id waits already.
    """
    db.execute(
        "INSERT INTO outbox (tbl, id, version, record, posted_at) VALUES (?, ?, ?, ?, ?)",
        (table, record.id, record.version, record.model_dump_json(), time.time()),
    )
    if isinstance(record, Memory):
        add_idea(db, record)
