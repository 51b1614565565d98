"""Ideas in memory, as far as the status tells of them: their tags, and what became of them. The log has their words."""

import json
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.models import Memory

DIRECTION = "direction"  # tag of an idea that describes a field of work, and is never tried itself
AFTER = "after:"  # begins a tag that names the idea to wait for
_REPETITIONS = "repetitions"  # in `totals`
_NO_FIELD = f"NOT EXISTS (SELECT 1 FROM idea_tags AS field WHERE field.idea = ideas.id AND field.tag = '{DIRECTION}')"  # noqa: S608


@dataclass(frozen=True)
class Work:
    """What was done on the ideas with a tag.

    Attributes:
        tag: their direction.
        ideas: how many there are; superseded ones and those that describe the direction itself don't count.
        tried: how many proposals try one and were trained.
        failed: of those, how many have no training that finished.
        device_s: seconds from start to end of their trainings.
        at: when a training of them ended last, or the newest idea was written, in Unix seconds.
    """

    tag: str
    ideas: int
    tried: int
    failed: int
    device_s: float
    at: float


class Ideas:
    """Every idea that was written since the ledger knows of ideas, or was offered from the backlog since."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def know_ideas(self, ideas: Sequence[Memory]) -> None:
        """Record ideas that an older version wrote. Known ones cost one look."""
        ids = json.dumps([idea.id for idea in ideas])
        with self._database.read() as db:
            known = {row[0] for row in db.execute("SELECT id FROM ideas WHERE id IN (SELECT value FROM json_each(?))", (ids,))}
        if new := [idea for idea in ideas if idea.id not in known]:
            with self._database.write() as db:
                for idea in new:
                    add_idea(db, idea)

    def free_ideas(self, agent: str, held: Collection[str] = ()) -> int:
        """Count the ideas that nobody tries, that no other agent holds, and that wait for no other.

        Args:
            agent: its own claims are no obstacle.
            held: the champion and what it was built on: nobody combines those with another proposal.
        """
        query = f"""
            SELECT count(*) FROM ideas WHERE NOT superseded AND {_NO_FIELD}
            AND NOT EXISTS (SELECT 1 FROM idea_commits WHERE idea_commits.idea = ideas.id)
            AND NOT EXISTS (SELECT 1 FROM claims WHERE claims.idea = ideas.id AND ended_at IS NULL
                AND until > :now AND holder != :agent)
            AND NOT EXISTS (SELECT 1 FROM idea_tags AS waits WHERE waits.idea = ideas.id AND waits.tag LIKE '{AFTER}%'
                AND NOT EXISTS (SELECT 1 FROM idea_commits WHERE idea = substr(waits.tag, {len(AFTER) + 1})))
            AND NOT EXISTS (SELECT 1 FROM combinations JOIN json_each(:held) AS part ON instr(pair, part.value) WHERE idea = ideas.id)"""  # noqa: S608
        with self._database.read() as db:
            return int(db.execute(query, {"now": time.time(), "agent": agent, "held": json.dumps(list(held))}).fetchone()[0])

    def work(self) -> list[Work]:
        """Return what was done for each tag, the one with the latest activity first."""
        query = f"""
            WITH tagged AS (
                SELECT tag, idea, created_at, superseded FROM idea_tags JOIN ideas ON id = idea WHERE {_NO_FIELD} AND tag NOT LIKE '{AFTER}%'
            ), trained AS (
                SELECT ended."commit", max(state = 'finished') AS finished, sum(max(coalesce(finished_at - started_at, 0), 0)) AS seconds,
                    max(finished_at) AS at
                FROM (SELECT DISTINCT "commit" FROM idea_commits) AS tries
                JOIN ended ON ended."commit" = tries."commit" WHERE started AND NOT by_lab GROUP BY ended."commit"
            ), tried AS (
                SELECT tag, finished, seconds, at
                FROM (SELECT DISTINCT tag, "commit" FROM tagged JOIN idea_commits USING (idea)) JOIN trained USING ("commit")
            )
            SELECT tag, ideas, coalesce(n, 0), coalesce(failed, 0), coalesce(seconds, 0), max(coalesce(at, 0), written) AS latest FROM (
                SELECT tag, sum(NOT superseded) AS ideas, max(created_at) AS written
                FROM tagged GROUP BY tag
            ) LEFT JOIN (
                SELECT tag, count(*) AS n, sum(NOT finished) AS failed, sum(seconds) AS seconds, max(at) AS at FROM tried GROUP BY tag
            ) USING (tag) ORDER BY latest DESC, tag"""  # noqa: S608
        with self._database.read() as db:
            return [Work(*row) for row in db.execute(query)]

    def tags_of_commits(self) -> dict[str, list[str]]:
        """Return the directions of each proposal that tries an idea."""
        query = f"""
            SELECT "commit", tag FROM idea_commits JOIN idea_tags USING (idea)
            WHERE tag != '{DIRECTION}' AND tag NOT LIKE '{AFTER}%' GROUP BY 1, 2"""  # noqa: S608
        tags = dict[str, list[str]]()
        with self._database.read() as db:
            for commit, tag in db.execute(query):
                tags.setdefault(commit, []).append(tag)
        return tags

    def tags_of_ideas(self, ideas: Sequence[str]) -> dict[str, list[str]]:
        """Return the tags of these ideas."""
        tags = dict[str, list[str]]()
        with self._database.read() as db:
            query = f"SELECT idea, tag FROM idea_tags WHERE idea IN ({', '.join('?' * len(ideas))})"  # noqa: S608
            for idea, tag in db.execute(query, tuple(ideas)):
                tags.setdefault(idea, []).append(tag)
        return tags

    def count_repetition(self) -> None:
        """Count a training that was spared: somebody was told that what they proposed or claimed had been tried or proposed before."""
        with self._database.write() as db:
            db.execute("INSERT INTO totals VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1", (_REPETITIONS,))

    def repetitions(self) -> int:
        """Return how many there were."""
        with self._database.read() as db:
            row = db.execute("SELECT value FROM totals WHERE name = ?", (_REPETITIONS,)).fetchone()
        return int(row[0]) if row else 0


def add_idea(db: sqlite3.Connection, memory: Memory) -> None:
    """Record what the status tells of a memory that is an idea; of another, which ideas it supersedes."""
    if memory.kind == "idea":
        db.execute("INSERT INTO ideas VALUES (?, ?, 0) ON CONFLICT DO NOTHING", (memory.id, memory.created_at))
        db.executemany("INSERT INTO idea_tags VALUES (?, ?) ON CONFLICT DO NOTHING", [(tag, memory.id) for tag in memory.tags])
    db.executemany("UPDATE ideas SET superseded = 1 WHERE id = ?", [(id,) for id in memory.supersedes])
