"""Evidence that the gate and the lab's owner read, and agents never: hidden scores, sandboxes, hashes of weights."""

import json
from collections.abc import Sequence

from autoresearch_mcp.server.ledger.database import Database
from autoresearch_mcp.server.ledger.tallying import evidence_changed


class Evidence:
    """One row an experiment. No tool, no resource, no export and no lake holds it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep_evidence(
        self, id: str, sandbox: str, test_bpb: float | None, weights: str | None, answers: str | None = None, finding: str = ""
    ) -> None:
        """Keep the evidence of an experiment that is about to end. Repeating it replaces what was kept.

        Args:
            id: of the experiment.
            sandbox: the level of confinement that it was trained at.
            test_bpb: its score on the hidden split; None leaves a score that was kept before.
            weights: hash of the weights that it submitted.
            answers: hash of what its model answered.
            finding: where a check of its model failed, and by how much.
        """
        with self._database.write() as db:
            db.execute(
                "INSERT INTO evidence (experiment, sandbox, test_bpb, weights, answers, finding) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET sandbox = excluded.sandbox, test_bpb = coalesce(excluded.test_bpb, test_bpb), "
                "weights = excluded.weights, answers = excluded.answers, finding = coalesce(nullif(excluded.finding, ''), finding)",
                (id, sandbox, test_bpb, weights, answers, finding),
            )
            evidence_changed(db, id)

    def findings(self) -> list[tuple[str, str, str]]:
        """Return where checks of models failed: experiment, commit and finding, the oldest first."""
        with self._database.read() as db:
            return db.execute(
                'SELECT e.id, e."commit", v.finding FROM evidence v JOIN ended e ON e.id = v.experiment '
                "WHERE v.finding <> '' ORDER BY e.finished_at"
            ).fetchall()

    def same_models(self, commits: Sequence[str]) -> list[str]:
        """Return the other commits of which a replicate has the very same weights or answers as one of these commits."""
        with self._database.read() as db:
            rows = db.execute(
                'WITH ours AS (SELECT value AS "commit" FROM json_each(?)), models AS (SELECT v.weights, v.answers FROM evidence v '
                'JOIN ended a ON a.id = v.experiment WHERE a."commit" IN (SELECT "commit" FROM ours)), same AS ('
                "SELECT w.experiment FROM models JOIN evidence w ON w.weights = models.weights "
                "UNION SELECT w.experiment FROM models JOIN evidence w ON w.answers = models.answers) "
                'SELECT DISTINCT b."commit" FROM same JOIN ended b ON b.id = same.experiment '
                'WHERE b."commit" NOT IN (SELECT "commit" FROM ours)',
                (json.dumps(list(commits)),),
            ).fetchall()
        return [row[0] for row in rows]
