"""Loss curves of finished trainings, in 5 % windows of the budget: what a running training is compared with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.ledger.database import Database

Windows = list[float | None]  # mean loss in each window; None where the code reported nothing


@dataclass(frozen=True)
class KeptCurve:
    """The curve of a training that finished, with the metric that it ended at."""

    commit: str
    metric: float
    windows: Windows


class Curves:
    """One row a finished training. The losses are what its own code reported: they may end a run, and never help one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep_curve(self, id: str, settings: str, windows: Sequence[float | None]) -> None:
        """Keep the curve of an experiment that is about to end. Repeating it replaces what was kept.

        Args:
            id: of the experiment.
            settings: hash of what must be equal for two curves to be compared; see `pace.settings_of`.
            windows: its mean losses.
        """
        with self._database.write() as db:
            db.execute("INSERT OR REPLACE INTO curves VALUES (?, ?, ?)", (id, settings, json.dumps(list(windows))))

    def kept_curves(self, settings: str, limit: int) -> list[KeptCurve]:
        """Return the curves of finished experiments that were trained under these settings.

        Args:
            settings: as in `keep_curve`.
            limit: the most that are returned, the newest.

        Returns:
            The curves, the newest first. A second run with the same seed is left out.
        """
        with self._database.read() as db:
            rows = db.execute(
                'SELECT e."commit", coalesce(e.val_bpb, e.reported_bpb), c.windows FROM curves c JOIN ended e ON e.id = c.experiment '
                "WHERE c.settings = ? AND e.state = 'finished' AND e.reproduces = '' ORDER BY e.finished_at DESC LIMIT ?",
                (settings, limit),
            ).fetchall()
        return [KeptCurve(commit, metric, json.loads(windows)) for commit, metric, windows in rows if metric is not None]

    def all_curves(self) -> list[tuple[str, str, Windows]]:
        """Return the experiment, the commit and the curve of every training that finished, the oldest first."""
        with self._database.read() as db:
            rows = db.execute(
                'SELECT e.id, e."commit", c.windows FROM curves c JOIN ended e ON e.id = c.experiment ORDER BY e.finished_at'
            ).fetchall()
        return [(experiment, commit, json.loads(windows)) for experiment, commit, windows in rows]
