"""Evidence that the gate and the lab's owner read, and agents never: hidden scores, sandboxes, hashes of weights."""

import json
from collections.abc import Sequence

from autoresearch_mcp.server.ledger.database import Database


class Evidence:
    """One row an experiment. No tool, no resource, no export and no lake holds it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep_evidence(self, id: str, sandbox: str, test_bpb: float | None, weights: str | None) -> None:
        """Keep the evidence of an experiment that is about to end. Repeating it replaces what was kept.

        Args:
            id: of the experiment.
            sandbox: the level of confinement that it was trained at.
            test_bpb: its score on the hidden split; None leaves a score that was kept before.
            weights: hash of the weights that it submitted.
        """
        with self._database.write() as db:
            db.execute(
                "INSERT INTO evidence (experiment, sandbox, test_bpb, weights) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET sandbox = "
                "excluded.sandbox, test_bpb = coalesce(excluded.test_bpb, test_bpb), weights = excluded.weights",
                (id, sandbox, test_bpb, weights),
            )

    def same_models(self, commits: Sequence[str]) -> list[str]:
        """Return the other commits of which a replicate trained the very same weights as one of these commits."""
        with self._database.read() as db:
            rows = db.execute(
                'WITH ours AS (SELECT value AS "commit" FROM json_each(?)) SELECT DISTINCT b."commit" FROM ended a '
                "JOIN evidence v ON v.experiment = a.id JOIN evidence w ON w.weights = v.weights JOIN ended b ON b.id = w.experiment "
                'WHERE a."commit" IN (SELECT "commit" FROM ours) AND b."commit" NOT IN (SELECT "commit" FROM ours)',
                (json.dumps(list(commits)),),
            ).fetchall()
        return [row[0] for row in rows]
