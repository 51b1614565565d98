"""Device seconds and money: what is spent, what is reserved, and what the provider charged."""

import sqlite3
import time

from autoresearch_mcp.server.ledger.database import Database


class Budget:
    """The totals of the lab, and a bill for each attempt that ended on a rented device."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def spending(self) -> tuple[float, float]:
        """Add up the device seconds of the whole lab.

        Returns:
            Seconds spent, and seconds reserved by experiments that have not ended.
        """
        with self._database.read() as db:
            return spent_s(db), reserved_s(db)

    def money(self) -> tuple[float, float, float, dict[str, float]]:
        """Add up the money of the whole lab, in USD.

        Returns:
            Spent, reserved, spent in the last hour, and spent by each agent, the largest sum first.
        """
        with self._database.read() as db:
            hour = db.execute("SELECT coalesce(sum(usd), 0) FROM bills WHERE at > ?", (time.time() - 3600,)).fetchone()[0]
            agents = db.execute("SELECT author, sum(usd) AS usd FROM bills GROUP BY author ORDER BY usd DESC").fetchall()
            return billed_usd(db), reserved_usd(db), float(hour), dict(agents)

    def unsettled(self, until: float) -> list[tuple[str, int]]:
        """List attempts that ended before `until` and whose cost is not the provider's number yet.

        Returns:
            Pairs of experiment and attempt, the oldest first.
        """
        with self._database.read() as db:
            return db.execute("SELECT experiment, attempt FROM bills WHERE NOT settled AND at < ? ORDER BY at", (until,)).fetchall()

    def settle_bill(self, experiment: str, attempt: int, usd: float | None) -> None:
        """Replace the estimate of an attempt's cost by the provider's number.

        Args:
            experiment: its id.
            attempt: its number.
            usd: the provider's number; None lets the estimate stand for good.
        """
        with self._database.write() as db:
            db.execute(
                "UPDATE bills SET usd = coalesce(?, usd), settled = 1 WHERE experiment = ? AND attempt = ?", (usd, experiment, attempt)
            )


def spent_s(db: sqlite3.Connection) -> float:
    """Return the device seconds that ended experiments used."""
    return float(db.execute("SELECT value FROM totals WHERE name = 'spent_s'").fetchone()[0])


def reserved_s(db: sqlite3.Connection) -> float:
    """Return the device seconds held back for experiments that have not ended."""
    return float(db.execute("SELECT coalesce(sum(reserved_s), 0) FROM experiments").fetchone()[0])


def billed_usd(db: sqlite3.Connection) -> float:
    """Return the sum of all bills."""
    return float(db.execute("SELECT coalesce(sum(usd), 0) FROM bills").fetchone()[0])


def reserved_usd(db: sqlite3.Connection) -> float:
    """Return the money held back for experiments that have not ended."""
    return float(db.execute("SELECT coalesce(sum(json_extract(record, '$.reserved_usd')), 0) FROM experiments").fetchone()[0])


def add_bill(db: sqlite3.Connection, experiment: str, attempt: int, author: str, usd: float) -> None:
    """Bill an attempt that ended, once. The sum is an estimate until `Budget.settle_bill`."""
    db.execute("INSERT INTO bills VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING", (experiment, attempt, author, time.time(), usd))


def add_spent(db: sqlite3.Connection, seconds: float) -> None:
    """Charge the device seconds of an experiment that ended."""
    db.execute("UPDATE totals SET value = value + ? WHERE name = 'spent_s'", (seconds,))
