"""Evidence that the gate and the lab's owner read, and agents never: hidden scores, sandboxes, hashes of weights."""

import sqlite3
from collections.abc import Sequence
from typing import Any

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

    def test_scores(self) -> list[tuple[str, str, float, float]]:
        """List every replicate that finished with both scores. Only for the lab's owner.

        Returns:
            Rows of conditions, commit, val_bpb and test_bpb.
        """
        with self._database.read() as db:
            return db.execute(
                'SELECT e.conditions, e."commit", e.val_bpb, v.test_bpb FROM ended e JOIN evidence v ON v.experiment = e.id '
                "WHERE e.val_bpb IS NOT NULL AND v.test_bpb IS NOT NULL AND e.reproduces = ''"
            ).fetchall()


def evidence_of(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the evidence of these experiments by id, as fields of a `Score`."""
    columns, these = "experiment, sandbox != 'unsandboxed', test_bpb, weights", ", ".join("?" * len(ids))
    rows = db.execute(f"SELECT {columns} FROM evidence WHERE experiment IN ({these})", tuple(ids))  # noqa: S608
    return {id: dict(zip(("confined", "test_bpb", "weights"), rest)) for id, *rest in rows}
