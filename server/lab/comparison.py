"""How an experiment and its commit compare with the champion, in sentences."""

import math
from statistics import median

from autoresearch_mcp.server.gate.spread import mean
from autoresearch_mcp.server.goal import gain
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.models import BUDGET, IMPORTED, OWNER, PAUSE, Experiment, Score
from autoresearch_mcp.server.untrusted import one_line

DISTURBED = 0.07  # share by which a run's steps fall out of its commit's own, from which on it is marked
_MOST_BESIDE = 8  # further numbers that are compared


class Comparison:
    """Compares with the champion of now. Thread-safe: it keeps nothing between calls."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status

    def against_champion(self, e: Experiment) -> str:
        """Say in a sentence or two where an experiment's metric stands."""
        if e.cancelled_by:
            asked = "was cancelled" if e.terminal else "is being cancelled"
            return f"It {asked} by {'the lab' if e.cancelled_by in (OWNER, BUDGET, PAUSE) else one_line(e.cancelled_by, 64)}."
        if e.metric is None:
            return "It has no metric." if e.terminal else "It has not been measured yet."
        champion = self._core.repo.champion()
        summary, own = self._status.summary(champion, e.conditions), self._status.summary(e.commit, e.conditions)
        notes = _counts_nowhere(e)
        if e.val_bpb is None:
            notes += " All of these are reported: the code printed them itself, and nobody verified them."
        if summary.mean is None:
            return f"The champion was not measured under the same conditions yet: launch replicates of it to compare.{notes}"
        level = f"mean {summary.mean:.4f} (n={summary.n}" + (f", sd {summary.sd:.4f}" if summary.sd is not None else "") + ")"
        if e.commit == champion:
            return f"A run of the champion, which has {level}.{notes}"
        metric = self._core.settings.metric
        of_commit = own.mean is not None and own.n > 1 and not _counts_nowhere(e)
        better_by = gain(own.mean if of_commit and own.mean is not None else e.metric, summary.mean, metric.better)
        unit = f"{metric.unit or ('' if metric.name else 'bits per byte')} ".lstrip()
        word = f"{unit}{'better' if better_by > 0 else 'worse'} than the champion's {level}."
        is_measurement = e.commit in self._core.ledger.measurements()
        if is_measurement:
            notes += " It is a measurement: never a candidate."
        if not of_commit:
            caution = "One replicate proves nothing" + ("." if is_measurement else "; promote_commit judges over several.")
            return f"{abs(better_by):.4f} {word} {caution}{self._beside(e, champion)}{notes}"
        noise = self._status.noise(e.conditions)
        error = f" ± {noise * math.sqrt(1 / own.n + 1 / summary.n):.4f}" if noise is not None else ""
        return f"Its commit has mean {own.mean:.4f} (n={own.n}): {abs(better_by):.4f}{error} {word}{self._beside(e, champion)}{notes}"

    def _beside(self, e: Experiment, champion: str) -> str:
        """Compare an experiment's further numbers with the champion's, those of guards first."""
        scores = self._status.counting(champion, e.conditions)
        theirs = {name: [score.metrics[name] for score in scores if name in score.metrics] for name in e.metrics}
        guarded = [guard.name for guard in self._core.settings.metric.guard]
        names = [name for name in dict.fromkeys([*guarded, *e.metrics]) if theirs.get(name)][:_MOST_BESIDE]
        numbers = [f"{one_line(name, 64)} {e.metrics[name]:.6g} (champion {mean(theirs[name]):.6g})" for name in names]
        return f" Beside it: {', '.join(numbers)}." if numbers else ""

    def disturbed(self, e: Experiment) -> str:
        """Say by how much a run's steps fall out of its commit's own; empty where they don't, or nothing is known."""
        return self.disturbances(e.commit).get(e.id, "")

    def disturbances(self, commit: str) -> dict[str, str]:
        """Return those runs of a commit whose steps fall out of its own, each with by how much."""
        by_conditions: dict[str, list[Score]] = {}
        for score in self._core.ledger.scores(commit):
            if score.steps:
                by_conditions.setdefault(score.conditions, []).append(score)
        return {
            score.experiment: f"{share:+.0%} steps against its commit's median of {middle:g}"
            for scores in by_conditions.values()
            if len(scores) > 1
            for middle in [median(score.steps or 0 for score in scores)]
            for score in scores
            if abs(share := (score.steps or 0) / middle - 1) >= DISTURBED
        }


def _counts_nowhere(e: Experiment) -> str:
    if e.reproduces:
        return f" This is a reproduction of {e.reproduces}, which counts nowhere."
    return " It was imported: this lab did not measure it, and it counts nowhere." if IMPORTED in e.tags else ""
