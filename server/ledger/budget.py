"""Device seconds and money: what is spent, what is held back, and what the provider charged.

A training that waits holds back what trainings like it have cost. One that starts holds back the most that it can cost, and doesn't
start where the budget has less. So a queue can be filled with what will be spent, and the budget is never passed.
"""

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.tallying import catch_up, reading
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment
from autoresearch_mcp.server.settings import SwarmSection

_USD = "json_extract(record, '$.reserved_usd')"
_HELD_USD = (
    f"CASE WHEN state = 'queued' AND json_extract(record, '$.expected_s') > 0 "
    f"THEN {_USD} * json_extract(record, '$.expected_s') / json_extract(record, '$.reserved_s') ELSE {_USD} END"
)


@dataclass(frozen=True)
class Share:
    """What one agent may use; 0 is no limit.

    Attributes:
        device_s: device seconds, spent and held back.
        usd: money, likewise.
        queued: trainings that wait.
    """

    device_s: float = 0.0
    usd: float = 0.0
    queued: int = 0

    @classmethod
    def of(cls, swarm: SwarmSection) -> "Share":
        """Return what lab.toml allows each agent."""
        return cls(swarm.device_hours * 3600, swarm.usd, swarm.queued)


@dataclass(frozen=True)
class Use:
    """What one agent has used and holds back, the replicates of the champion not counted.

    Attributes:
        device_s: device seconds from start to end of what ended, and what is held back for the rest.
        usd: money, likewise.
        queued: its trainings that wait.
    """

    device_s: float
    usd: float
    queued: int


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

    def use(self, author: str) -> Use:
        """Return what an agent has used and holds back."""
        with reading(self._database) as db:
            return use(db, author)

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
    """Return the device seconds held back for experiments that have not ended. See `Experiment.held_s`."""
    return float(db.execute("SELECT coalesce(sum(reserved_s), 0) FROM experiments").fetchone()[0])


def billed_usd(db: sqlite3.Connection) -> float:
    """Return the sum of all bills."""
    return float(db.execute("SELECT coalesce(sum(usd), 0) FROM bills").fetchone()[0])


def reserved_usd(db: sqlite3.Connection) -> float:
    """Return the money held back for experiments that have not ended."""
    return float(db.execute(f"SELECT coalesce(sum({_HELD_USD}), 0) FROM experiments").fetchone()[0])  # noqa: S608


def check_queue(db: sqlite3.Connection, experiments: Sequence[Experiment], total_s: float, total_usd: float) -> None:
    """Refuse experiments that the budget has no room for: beside all that is open, and one of them by itself at its worst.

    Raises:
        LabError: `over_budget`.
    """
    spent, held, needed = spent_s(db), reserved_s(db), sum(e.held_s for e in experiments)
    worst = max((e.reserved_s for e in experiments), default=0.0)
    if needed > total_s - spent - held or worst > total_s - spent:
        needed = needed if needed > total_s - spent - held else worst
        raise LabError(
            f"Not queued: this could use up to {needed:.0f} device seconds and the lab's budget has {max(0, total_s - spent - held):.0f} left "
            f"({spent:.0f} spent, {held:.0f} reserved by running and queued experiments, {total_s:.0f} in all). "
            "Launch fewer replicates, wait for running experiments to return what they don't use, or ask the lab's owner to raise "
            "[budget] device_hours in lab.toml.",
            "over_budget",
        )
    if not any(e.reserved_usd for e in experiments):
        return
    billed, kept = billed_usd(db), reserved_usd(db)
    price = sum(_held_usd(e) for e in experiments)
    dearest = max((e.reserved_usd for e in experiments), default=0.0)
    if price > total_usd - billed - kept or dearest > total_usd - billed:
        price = price if price > total_usd - billed - kept else dearest
        raise LabError(
            f"Not queued: this could cost up to ${price:.2f} and the lab's budget has ${max(0, total_usd - billed - kept):.2f} left of "
            f"${total_usd:.2f}. Launch fewer replicates, choose a cheaper device, wait for running experiments to return what they don't use, "
            "or ask the lab's owner to raise [budget] usd in lab.toml.",
            "over_budget",
        )


def use(db: sqlite3.Connection, author: str) -> Use:
    """Return what an agent has used and holds back, where the sums of what ended are up to date."""
    mine = "FROM experiments WHERE author = ? AND NOT coalesce(json_extract(record, '$.by_lab'), 0)"
    held, kept, queued = db.execute(
        f"SELECT coalesce(sum(reserved_s), 0), coalesce(sum({_HELD_USD}), 0), coalesce(sum(state = 'queued'), 0) {mine}",
        (author,),
    ).fetchone()
    spent = db.execute("SELECT coalesce(sum(seconds), 0) FROM ended_of_agents WHERE author = ? AND NOT by_lab", (author,)).fetchone()[0]
    billed = db.execute("SELECT coalesce(sum(usd), 0) FROM bills WHERE author = ?", (author,)).fetchone()[0]
    return Use(float(spent + held), float(billed + kept), int(queued))


def check_share(db: sqlite3.Connection, experiments: Sequence[Experiment], share: Share) -> None:
    """Refuse experiments of one agent that its share has no room for.

    Raises:
        LabError: `over_share`.
    """
    if share == Share() or not experiments:
        return
    author = experiments[0].author
    catch_up(db)
    now = use(db, author)
    needed = sum(e.held_s for e in experiments)
    if share.queued and now.queued + len(experiments) > share.queued:
        why = f"{author} has {now.queued} trainings queued, and [swarm] queued in lab.toml allows {share.queued}. Wait for some to start"
    elif share.device_s and now.device_s + needed > share.device_s:
        left = max(0.0, share.device_s - now.device_s)
        why = (
            f"this could use up to {needed:.0f} device seconds, and {author} has {left:.0f} left of the {share.device_s:.0f} that [swarm] "
            "device_hours in lab.toml allows one agent. Launch fewer replicates, leave the rest to others"
        )
    elif share.usd and now.usd + (price := sum(_held_usd(e) for e in experiments)) > share.usd:
        left = max(0.0, share.usd - now.usd)
        why = (
            f"this could cost up to ${price:.2f}, and {author} has ${left:.2f} left of the ${share.usd:.2f} that [swarm] usd in lab.toml "
            "allows one agent. Launch fewer replicates, leave the rest to others"
        )
    else:
        return
    raise LabError(f"Not queued: {why}, or ask the lab's owner for more.", "over_share")


def check_start(db: sqlite3.Connection, e: Experiment, total_s: float, total_usd: float) -> None:
    """Refuse to start an experiment whose worst case the budget doesn't cover beside what runs. What waits holds nothing against it.

    Raises:
        LabError: `over_budget`.
    """
    running = f"FROM experiments WHERE state IN ({', '.join(map(repr, ACTIVE_STATES))})"  # as the index has it, not all but the queued
    held = float(db.execute(f"SELECT coalesce(sum(reserved_s), 0) {running}").fetchone()[0])
    left = total_s - spent_s(db) - held - e.cost_s
    if e.reserved_s > left:
        raise LabError(
            f"A training can use up to {e.reserved_s:.0f} device seconds, and the lab's budget has {max(0, left):.0f} left.", "over_budget"
        )
    kept = float(db.execute(f"SELECT coalesce(sum({_USD}), 0) {running}").fetchone()[0])
    left = total_usd - billed_usd(db) - kept
    if e.reserved_usd > left:
        raise LabError(
            f"A training can cost up to ${e.reserved_usd:.2f}, and the lab's budget has ${max(0, left):.2f} left.", "over_budget"
        )


def _held_usd(e: Experiment) -> float:
    return e.reserved_usd * e.expected_s / e.reserved_s if e.expected_s and e.reserved_s else e.reserved_usd


def add_bill(db: sqlite3.Connection, experiment: str, attempt: int, author: str, usd: float) -> None:
    """Bill an attempt that ended, once. The sum is an estimate until `Budget.settle_bill`."""
    db.execute("INSERT INTO bills VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING", (experiment, attempt, author, time.time(), usd))


def add_spent(db: sqlite3.Connection, seconds: float) -> None:
    """Charge the device seconds of an experiment that ended."""
    db.execute("UPDATE totals SET value = value + ? WHERE name = 'spent_s'", (seconds,))
