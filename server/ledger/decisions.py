"""The gate's decisions: what it said of each candidate against each champion, and the levels that this spent."""

import json
import time
from collections.abc import Collection, Sequence

from autoresearch_mcp.server.ledger.claims import ENDING, end_decided
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.models import Verdict


class Decisions:
    """One row for each commit against a champion under some conditions. A final one stays as it is while the rules do."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep_decision(self, champion: str, conditions: str, commit: str, ticket: str, rules: str, verdict: Verdict) -> None:
        """Keep what the gate said. Repeating it changes nothing, and a final decision under the same rules is never replaced.

        Args:
            champion: against which the commit was compared.
            conditions: under which both were measured.
            commit: the candidate.
            ticket: what it shares with its near-copies.
            rules: the rules that were applied, as text.
            verdict: what the gate said.
        """
        key, record = (champion, conditions, commit), verdict.model_dump_json()
        with self._database.read() as db:
            query = 'SELECT final, rules, verdict FROM decisions WHERE champion = ? AND conditions = ? AND "commit" = ?'
            row = db.execute(query, key).fetchone()
        if row is not None and row[1] == rules and (row[0] or row[2] == record):
            return
        with self._database.write() as db:
            db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET ticket = excluded.ticket, "
                "rules = excluded.rules, level = max(level, excluded.level), final = excluded.final, verdict = excluded.verdict, "
                "decided_at = excluded.decided_at WHERE NOT final OR rules != excluded.rules",
                (*key, ticket, rules, verdict.level, verdict.final, record, time.time()),
            )
            if verdict.final or verdict.promote or verdict.code == "futile":
                end_decided(db, commit)

    def final_decision(self, champion: str, conditions: str, commits: Sequence[str], rules: str) -> tuple[str, Verdict] | None:
        """Return the first final decision on any of these commits, with the commit; None if there is none.

        Args:
            champion: against which they were compared.
            conditions: under which they were measured.
            commits: a candidate and its near-copies.
            rules: the rules of now: a decision under others doesn't hold.
        """
        with self._database.read() as db:
            row = db.execute(
                'SELECT "commit", verdict FROM decisions WHERE champion = ? AND conditions = ? AND rules = ? AND final '
                'AND "commit" IN (SELECT value FROM json_each(?)) ORDER BY decided_at LIMIT 1',
                (champion, conditions, rules, json.dumps(list(commits))),
            ).fetchone()
        return (row[0], Verdict.model_validate_json(row[1])) if row else None

    def decisions(self, champion: str, conditions: str, commits: Collection[str] | None = None) -> dict[str, Verdict]:
        """Return the gate's last word on every commit that was compared with this champion under these conditions.

        Args:
            champion: against which they were compared.
            conditions: under which they were measured.
            commits: only these of them; None for all.
        """
        named = "" if commits is None else 'AND "commit" IN (SELECT value FROM json_each(:commits))'
        return self._those(champion, conditions, named, commits or ())

    def passing(self, champion: str, conditions: str) -> dict[str, Verdict]:
        """Return the commits that the gate lets replace this champion."""
        return self._those(champion, conditions, "AND json_extract(verdict, '$.promote')")

    def undecided(self, champion: str, conditions: str) -> dict[str, Verdict]:
        """Return the commits of which the gate asked for more replicates."""
        return self._those(champion, conditions, "AND NOT final AND json_extract(verdict, '$.code') = 'continue'")

    def last_words(self, commits: Collection[str]) -> dict[str, tuple[str, Verdict]]:
        """Return the last word that ended the question of each of these commits, with the champion of then, whichever it was."""
        query = (
            'SELECT champion, verdict, "commit" FROM decisions '  # noqa: S608
            f'WHERE {ENDING} AND "commit" IN (SELECT value FROM json_each(?)) ORDER BY decided_at'
        )
        with self._database.read() as db:
            rows = db.execute(query, (json.dumps(list(commits)),)).fetchall()
        return {commit: (champion, Verdict.model_validate_json(verdict)) for champion, verdict, commit in rows}

    def _those(self, champion: str, conditions: str, further: str, commits: Collection[str] = ()) -> dict[str, Verdict]:
        values = {"champion": champion, "conditions": conditions, "commits": json.dumps(list(commits))}
        query = f'SELECT "commit", verdict FROM decisions WHERE champion = :champion AND conditions = :conditions {further}'  # noqa: S608
        with self._database.read() as db:
            rows = db.execute(query, values).fetchall()
        return {commit: Verdict.model_validate_json(verdict) for commit, verdict in rows}

    def decided_since(self, since: float) -> int:
        """Count the commits, near-copies once, on which the gate's word of after a moment was its last: yes, or that it is hopeless."""
        query = f"SELECT count(DISTINCT ticket) FROM decisions WHERE decided_at > ? AND {ENDING}"  # noqa: S608
        with self._database.read() as db:
            return int(db.execute(query, (since,)).fetchone()[0])

    def levels_spent(self) -> float:
        """Return how many false promotions are to be expected so far, at most: the sum of the levels of all tickets."""
        with self._database.read() as db:
            row = db.execute(
                "SELECT coalesce(sum(level), 0) FROM (SELECT max(level) AS level FROM decisions GROUP BY champion, conditions, ticket)"
            ).fetchone()
        return float(row[0])
