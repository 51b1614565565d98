"""Looks: what was written after a moment, by the numbers that the tables have anyway. So a caller keeps its place, and the lab keeps none."""

import re
import sqlite3
import time
from dataclasses import dataclass

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger.claims import Claim, claims_after
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.news import Piece, addressed_after
from autoresearch_mcp.server.models import Candidacy, Promotion, Sweep

_LATEST = 500  # sweeps and launches until decided that are looked at
_FORM = re.compile(r"\d{1,15}(\.\d{1,15}){4}")


@dataclass(frozen=True)
class Cursor:
    """A place in what happened.

    Attributes:
        promotions: number of the newest promotion.
        ended: likewise of the experiments that ended.
        claims: likewise of the claims.
        news: likewise of the pieces of news.
        at: milliseconds since the epoch, for what is not in the ledger.
    """

    promotions: int
    ended: int
    claims: int
    news: int
    at: int

    def __str__(self) -> str:
        return f"{self.promotions}.{self.ended}.{self.claims}.{self.news}.{self.at}"

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Return the cursor that a text holds.

        Raises:
            LabError: `bad_arguments`.
        """
        if not _FORM.fullmatch(text.strip()):
            raise LabError("since takes the `cursor` of an earlier get_status answer, as it came. Leave it out at first.", "bad_arguments")
        return cls(*map(int, text.split(".")))


@dataclass(frozen=True)
class Tally:
    """Experiments of one author that ended.

    Attributes:
        author: `the lab` for the champion's replicates.
        states: how many, by state.
        least: lowest metric of those that finished; None where none did.
        most: the highest.
        at: when the last ended, in Unix seconds.
    """

    author: str
    states: dict[str, int]
    least: float | None
    most: float | None
    at: float


@dataclass(frozen=True)
class Happened:
    """What happened after a cursor, each list the oldest first."""

    promotions: list[Promotion]
    tallies: list[Tally]
    claims: list[Claim]
    addressed: list[Piece]
    sweeps: list[Sweep]
    launches: list[Candidacy]  # until decided, of the caller


class Looks:
    """Reads what is new since a caller's last look."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def cursor(self) -> Cursor:
        """Return the place after all that has happened."""
        query = """SELECT (SELECT coalesce(max(seq), 0) FROM promotions WHERE done), (SELECT coalesce(max(rowid), 0) FROM ended),
            (SELECT coalesce(max(seq), 0) FROM claims), (SELECT coalesce(max(seq), 0) FROM news)"""
        with self._database.read() as db:
            numbers = [*db.execute(query).fetchone(), round(time.time() * 1000)]
        return Cursor(*numbers)

    def happened(self, after: Cursor, caller: str, limit: int = 50) -> Happened:
        """Return what happened after a cursor.

        Args:
            after: where the caller looked last.
            caller: whose launches and cancelled trainings are told.
            limit: the most promotions, claims and pieces, each the newest.
        """
        who = "CASE by_lab WHEN 1 THEN 'the lab' ELSE author END"
        with self._database.read() as db:
            moves = db.execute(
                "SELECT record FROM promotions WHERE done AND seq > ? ORDER BY seq DESC LIMIT ?", (after.promotions, limit)
            ).fetchall()
            ended = db.execute(
                f"SELECT {who} AS who, state, count(*), min(coalesce(val_bpb, reported_bpb)), max(coalesce(val_bpb, reported_bpb)), "  # noqa: S608
                "max(finished_at) FROM ended WHERE rowid > ? GROUP BY who, state ORDER BY who, state",
                (after.ended,),
            ).fetchall()
            sweeps = _ended_after(db, "sweeps", after.at / 1000, "", limit)
            launches = _ended_after(db, "candidacies", after.at / 1000, caller, limit)
            claims, pieces = claims_after(db, after.claims, limit), addressed_after(db, after.news, caller, limit)
        tallies = dict[str, Tally]()
        for author, state, count, least, most, at in ended:
            known = tallies.get(author, Tally(author, {}, None, None, 0.0))
            if state != "finished":
                least, most = known.least, known.most
            tallies[author] = Tally(author, known.states | {state: count}, least, most, max(known.at, at))
        promotions = [Promotion.model_validate_json(row[0]) for row in reversed(moves)]
        return Happened(
            promotions,
            sorted(tallies.values(), key=lambda each: each.at),
            claims,
            pieces,
            [Sweep.model_validate_json(record) for record in sweeps],
            [Candidacy.model_validate_json(record) for record in launches],
        )


def _ended_after(db: sqlite3.Connection, table: str, at: float, author: str, limit: int) -> list[str]:
    """Return the records of what ended after a moment, of one author or of all, the oldest first."""
    query = f"""
        SELECT record FROM (SELECT record FROM {table} WHERE state != 'open' ORDER BY rowid DESC LIMIT {_LATEST})
        WHERE json_extract(record, '$.ended_at') > ?1 AND (?2 = '' OR json_extract(record, '$.author') = ?2)
        ORDER BY json_extract(record, '$.ended_at') DESC LIMIT ?3"""  # noqa: S608
    return [row[0] for row in reversed(db.execute(query, (at, author, limit)).fetchall())]
