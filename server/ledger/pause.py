"""Whether the lab is paused: its owner lets nothing start."""

import time

from autoresearch_mcp.server.ledger.database import Database


class Pause:
    """A row of the totals, there while the lab is paused."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def paused_at(self) -> float | None:
        """Return when the owner paused the lab, in seconds since the epoch; None where it is not paused."""
        with self._database.read() as db:
            row = db.execute("SELECT value FROM totals WHERE name = 'paused_at'").fetchone()
        return float(row[0]) if row else None

    def pause(self) -> None:
        """Let nothing start from now on. Repeating it changes nothing."""
        with self._database.write() as db:
            db.execute("INSERT INTO totals VALUES ('paused_at', ?) ON CONFLICT DO NOTHING", (time.time(),))

    def resume(self) -> bool:
        """Let trainings start again. Returns whether the lab was paused."""
        with self._database.write() as db:
            return db.execute("DELETE FROM totals WHERE name = 'paused_at'").rowcount > 0
