"""Alerts: what people are told outside of the lab, each once, and the deliveries that are still to be made."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.ledger.database import Database


@dataclass(frozen=True)
class Alert:
    """Something that people should hear of.

    Attributes:
        key: what it is about. A second alert with this key is none.
        kind: such as `promotion`.
        text: for people.
        at: Unix seconds.
    """

    key: str
    kind: str
    text: str
    at: float


@dataclass(frozen=True)
class Delivery:
    """An alert that is still to be sent to one place.

    Attributes:
        alert: what to send.
        target: names the place, without its address.
        tries: that were begun, this one included.
    """

    alert: Alert
    target: str
    tries: int


class Alerts:
    """Every alert, for good, and an outbox of deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def alerts_began(self) -> float:
        """Return when the lab began to look for alerts, in Unix seconds: now, the first time."""
        with self._database.read() as db:
            row = db.execute("SELECT at FROM alerts WHERE key = ''").fetchone()
        if row is None:
            self.add_alert(Alert("", "began", "", time.time()), [])
            return self.alerts_began()
        return float(row[0])

    def has_alert(self, key: str) -> bool:
        """Return whether there was an alert with this key."""
        with self._database.read() as db:
            return db.execute("SELECT 1 FROM alerts WHERE key = ?", (key,)).fetchone() is not None

    def add_alert(self, alert: Alert, targets: Sequence[str]) -> bool:
        """Add an alert and its deliveries.

        Args:
            alert: what happened.
            targets: the places to send it to.

        Returns:
            Whether it is new. Else nothing changes.
        """
        with self._database.write() as db:
            row = (alert.key, alert.kind, alert.text, alert.at)
            if not db.execute("INSERT INTO alerts VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", row).rowcount:
                return False
            db.executemany("INSERT INTO deliveries VALUES (?, ?, 0, 0)", [(alert.key, target) for target in targets])
        return True

    def waiting_deliveries(self) -> dict[str, int]:
        """Return how many deliveries are still to be made, by target."""
        with self._database.read() as db:
            return dict(db.execute("SELECT target, count(*) FROM deliveries GROUP BY target").fetchall())

    def take_deliveries(self, lease_s: float, limit: int, targets: Sequence[str], given_up: float) -> list[Delivery]:
        """Take what is due, so that no other process sends it too.

        Args:
            lease_s: after which it is due again, unless `delivered` or `postpone_delivery` comes before.
            limit: how many at most.
            targets: the places that the caller can send to.
            given_up: Unix seconds. Those of alerts from before it are taken wherever they go, as nobody sends them any more.
        """
        now = time.time()
        query = (
            "SELECT alert, target, tries + 1, kind, text, at FROM deliveries JOIN alerts ON key = alert "
            "WHERE due_at <= ? AND (target IN (SELECT value FROM json_each(?)) OR at < ?) ORDER BY at, target LIMIT ?"
        )
        given = (now, json.dumps(targets), given_up, limit)
        with self._database.read() as db:
            if db.execute(query, given).fetchone() is None:
                return []
        with self._database.write() as db:
            rows = db.execute(query, given).fetchall()
            changes = [(now + lease_s, key, target) for key, target, *_ in rows]
            db.executemany("UPDATE deliveries SET due_at = ?, tries = tries + 1 WHERE alert = ? AND target = ?", changes)
        return [Delivery(Alert(key, kind, text, at), target, tries) for key, target, tries, kind, text, at in rows]

    def delivered(self, delivery: Delivery) -> None:
        """Let go of a delivery: it arrived, or is given up."""
        with self._database.write() as db:
            db.execute("DELETE FROM deliveries WHERE alert = ? AND target = ?", (delivery.alert.key, delivery.target))

    def postpone_delivery(self, delivery: Delivery, seconds: float) -> None:
        """Try a delivery again after so many seconds."""
        with self._database.write() as db:
            row = (time.time() + seconds, delivery.alert.key, delivery.target)
            db.execute("UPDATE deliveries SET due_at = ? WHERE alert = ? AND target = ?", row)
