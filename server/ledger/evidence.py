"""Evidence that the gate and the lab's owner read, and agents never: hidden scores, sandboxes, hashes of weights."""

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
