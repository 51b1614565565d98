"""Promotions: written down before the champion's git ref moves, confirmed afterwards."""

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.news import add_news
from autoresearch_mcp.server.ledger.outbox import post
from autoresearch_mcp.server.models import Promotion


class Promotions:
    """Every promotion, for good, and at most one that is under way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def intend_promotion(self, promotion: Promotion) -> None:
        """Write down a promotion before the git ref moves. `confirm_promotion` or `drop_promotion` follows."""
        with self._database.write() as db:
            db.execute("INSERT INTO promotions (id, done, record) VALUES (?, 0, ?)", (promotion.id, promotion.model_dump_json()))

    def confirm_promotion(self, promotion: Promotion) -> None:
        """Make an intended promotion a fact, post it to the lake and make it news: the ref has moved. Repeating it changes nothing."""
        with self._database.write() as db:
            if db.execute("UPDATE promotions SET done = 1 WHERE id = ? AND done = 0", (promotion.id,)).rowcount:
                post(db, "promotions", promotion)
                add_news(db, "champion", promotion.author, promotion.id)

    def drop_promotion(self, promotion: Promotion) -> None:
        """Forget an intended promotion: the ref did not move. A confirmed one stays."""
        with self._database.write() as db:
            db.execute("DELETE FROM promotions WHERE id = ? AND done = 0", (promotion.id,))

    def promotions(self, done: bool = True) -> list[Promotion]:
        """List promotions.

        Args:
            done: the confirmed ones; False for the one, if any, that a crash left between intent and confirmation.

        Returns:
            The promotions, the oldest first.
        """
        with self._database.read() as db:
            rows = db.execute("SELECT record FROM promotions WHERE done = ? ORDER BY seq", (done,)).fetchall()
        return [Promotion.model_validate_json(row[0]) for row in rows]

    def champion_moves(self) -> int:
        """Count the confirmed moves of the champion, of every kind."""
        with self._database.read() as db:
            return int(db.execute("SELECT count(*) FROM promotions WHERE done = 1").fetchone()[0])

    def promotion_count(self) -> int:
        """Count the confirmed promotions, also those that were taken back; not what the owner made the champion."""
        with self._database.read() as db:
            return int(
                db.execute(
                    "SELECT count(*) FROM promotions WHERE done = 1"
                    " AND ifnull(json_extract(record, '$.verdict.code'), '') NOT IN ('demoted', 'adopted')"
                ).fetchone()[0]
            )
