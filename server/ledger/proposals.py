"""Proposals, for good, and the commits that have a proposal's code on another parent."""

from autoresearch_mcp.server.ledger.claims import inherit_ideas
from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.models import Proposal, ProposalKind


class Proposals:
    """Every commit that `propose_patch` made. The same code is one proposal."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def proposal(self, commit: str) -> Proposal | None:
        """Return the proposal with this commit, or None."""
        with self._database.read() as db:
            row = db.execute('SELECT record FROM proposals WHERE "commit" = ?', (commit,)).fetchone()
        return Proposal.model_validate_json(row[0]) if row else None

    def named(self, beginning: str) -> list[str]:
        """Return the commits of proposals whose ids begin with these digits, two at most."""
        with self._database.read() as db:
            rows = db.execute(
                'SELECT "commit" FROM proposals WHERE "commit" >= ?1 AND "commit" < ?1 || \'g\' LIMIT 2', (beginning,)
            ).fetchall()
        return [row[0] for row in rows]

    def proposals_after(self, row: int, limit: int) -> list[tuple[int, Proposal]]:
        """List the newest proposals that were recorded after a known one.

        Args:
            row: the row number of the known one; 0 for all.
            limit: how many at most; negative: all.

        Returns:
            Pairs of row number and proposal, the oldest first.
        """
        with self._database.read() as db:
            rows = db.execute("SELECT rowid, record FROM proposals WHERE rowid > ? ORDER BY rowid DESC LIMIT ?", (row, limit)).fetchall()
        return [(number, Proposal.model_validate_json(record)) for number, record in reversed(rows)]

    def proposal_records_after(self, row: int) -> list[tuple[int, str, str]]:
        """Return the row's number, the commit and the unparsed record of each proposal after a row, 0 for all, the oldest first."""
        with self._database.read() as db:
            return db.execute('SELECT rowid, "commit", record FROM proposals WHERE rowid > ? ORDER BY rowid', (row,)).fetchall()

    def proposals_by_author(self) -> dict[str, tuple[int, float]]:
        """Return how many proposals each author made, and when the last of them, in Unix seconds."""
        with self._database.read() as db:
            rows = db.execute(
                "SELECT json_extract(record, '$.author') AS who, count(*), max(created_at) FROM proposals GROUP BY who"
            ).fetchall()
        return {author: (count, last_at) for author, count, last_at in rows}

    def proposal_tags(self) -> list[str]:
        """Return the tags of all proposals, in order."""
        with self._database.read() as db:
            rows = db.execute("SELECT DISTINCT value FROM proposals, json_each(record, '$.tags') ORDER BY value").fetchall()
        return [row[0] for row in rows]

    def built_on(self, commit: str, limit: int) -> list[Proposal]:
        """Return the newest proposals on a commit, the oldest first."""
        with self._database.read() as db:
            rows = db.execute("SELECT record FROM proposals WHERE base = ? ORDER BY rowid DESC LIMIT ?", (commit, limit)).fetchall()
        return [Proposal.model_validate_json(record) for (record,) in reversed(rows)]

    def twin(self, fingerprint: str) -> Proposal | None:
        """Return the proposal whose code has this fingerprint, or None."""
        with self._database.read() as db:
            row = db.execute("SELECT record FROM proposals WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return Proposal.model_validate_json(row[0]) if row else None

    def add_proposal(self, proposal: Proposal, canonical: str = "", kind: ProposalKind = "candidate") -> Proposal:
        """Record a proposal, unless its twin is recorded already.

        Args:
            proposal: to record.
            canonical: the hash that it shares with its near-copies.
            kind: what it is meant for, if it is recorded. A twin stays what it is.

        Returns:
            The recorded one: this proposal, or its twin.
        """
        with self._database.write() as db:
            db.execute(
                "INSERT INTO proposals VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (proposal.commit, proposal.base, proposal.fingerprint, proposal.created_at, proposal.model_dump_json()),
            )
            row = db.execute("SELECT record FROM proposals WHERE fingerprint = ?", (proposal.fingerprint,)).fetchone()
            recorded = Proposal.model_validate_json(row[0])
            if kind == "measurement" and recorded.commit == proposal.commit:
                db.execute("INSERT INTO measurements VALUES (?) ON CONFLICT DO NOTHING", (recorded.commit,))
            if proposal.ported_from:
                inherit_ideas(db, recorded.commit, proposal.ported_from)
            if canonical:
                db.execute("INSERT INTO canonicals VALUES (?, ?) ON CONFLICT DO NOTHING", (recorded.commit, canonical))
        return recorded

    def measurements(self) -> frozenset[str]:
        """Return the commits of the proposals that are measurements: no candidates, and no part of leaderboard, noise and picture."""
        with self._database.read() as db:
            return frozenset(row[0] for row in db.execute('SELECT "commit" FROM measurements'))

    def make_candidate(self, commit: str) -> bool:
        """Make a candidate of a measurement, with all replicates that it has. Return whether it was one."""
        with self._database.write() as db:
            return db.execute('DELETE FROM measurements WHERE "commit" = ?', (commit,)).rowcount > 0

    def bases(self, commit: str) -> list[str]:
        """Return what a proposal was built on, the nearest first: its base, that one's base, and so on."""
        query = """
            WITH RECURSIVE line (id, depth) AS (
                SELECT base, 1 FROM proposals WHERE "commit" = ?
                UNION ALL SELECT base, depth + 1 FROM proposals JOIN line ON "commit" = id
            ) SELECT id FROM line ORDER BY depth"""
        with self._database.read() as db:
            return [row[0] for row in db.execute(query, (commit,))]

    def larger_than(self, added: int) -> dict[str, int]:
        """Return the proposals whose source holds more bytes beyond the lab's first one than these, and how many each holds, by commit."""
        query = """SELECT "commit", json_extract(record, '$.added') FROM proposals WHERE json_extract(record, '$.added') > ?"""
        with self._database.read() as db:
            return dict(db.execute(query, (added,)).fetchall())

    def novelties(self, limit: int) -> list[float]:
        """Return how new each of the last ideas was when it was proposed, the newest first. Ports and trials of sweeps are no ideas."""
        query = """
            SELECT json_extract(record, '$.novelty') AS novelty FROM proposals WHERE novelty IS NOT NULL ORDER BY rowid DESC LIMIT ?"""
        with self._database.read() as db:
            return [row[0] for row in db.execute(query, (limit,))]

    def canonical(self, commit: str) -> str | None:
        """Return the hash that a proposal shares with its near-copies, or None where an older version recorded it."""
        with self._database.read() as db:
            row = db.execute('SELECT canonical FROM canonicals WHERE "commit" = ?', (commit,)).fetchone()
        return row[0] if row else None

    def near_copies(self, canonical: str) -> list[str]:
        """Return the commits of all proposals with this canonical hash, the oldest first."""
        with self._database.read() as db:
            rows = db.execute('SELECT "commit" FROM canonicals WHERE canonical = ? ORDER BY rowid', (canonical,)).fetchall()
        return [row[0] for row in rows]

    def proposal_of(self, commit: str) -> str:
        """Return the commit of the proposal with the same code: `commit` itself, unless `add_alias` named another."""
        with self._database.read() as db:
            row = db.execute('SELECT proposal FROM aliases WHERE "commit" = ?', (commit,)).fetchone()
        return row[0] if row else commit

    def aliases(self) -> dict[str, str]:
        """Return the commits that have a proposal's code on another parent, each with the commit of that proposal."""
        with self._database.read() as db:
            return dict(db.execute('SELECT "commit", proposal FROM aliases').fetchall())

    def add_alias(self, commit: str, proposal: str) -> None:
        """Record that a commit has a proposal's code on another parent, so that it shares the proposal's scores."""
        with self._database.write() as db:
            db.execute("INSERT INTO aliases VALUES (?, ?) ON CONFLICT DO NOTHING", (commit, proposal))
