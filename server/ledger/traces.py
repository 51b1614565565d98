"""Trace contexts of launches, so that a training joins the trace of the call that launched it."""

from collections.abc import Sequence

from autoresearch_mcp.server.ledger.database import Database


class Traces:
    """One trace context an experiment, or a launch until decided. Only traced calls leave one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep_trace(self, ids: Sequence[str], context: str) -> None:
        """Keep the trace context of a call.

        Args:
            ids: of what it launched: experiments, or a launch until decided. The first context of each stays.
            context: as W3C's `traceparent` writes it.
        """
        with self._database.write() as db:
            db.executemany("INSERT INTO traces VALUES (?, ?) ON CONFLICT DO NOTHING", [(id, context) for id in ids])

    def trace_of(self, *ids: str) -> str:
        """Return the trace context of the first of these that has one; empty where none has.

        Args:
            ids: of an experiment and of its launch until decided.
        """
        with self._database.read() as db:
            for id in ids:
                if row := db.execute("SELECT context FROM traces WHERE id = ?", (id,)).fetchone():
                    return str(row[0])
        return ""
