"""The scores on the hidden split, for the lab's owner on the command line. No tool, resource or log holds them.

To tune a lab by these numbers makes the split a second validation set. Look at them, and keep them from the agents.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.gate.evidence import counted, for_display
from autoresearch_mcp.server.gate.spread import mean, sd
from autoresearch_mcp.server.goal import worsened
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Score
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo


@dataclass(frozen=True)
class HiddenScore:
    """A commit's replicates under one set of conditions, on both splits, in the metric's unit. Each `sd` is None for a single replicate."""

    commit: str
    conditions: str
    n: int
    val_bpb: float
    val_sd: float | None
    test_bpb: float
    test_sd: float | None
    champion: bool


def hidden_scores(root: Path) -> list[HiddenScore]:
    """Return the replicates that count and have both scores, by commit; the best on validation first, under each set of conditions.

    Raises:
        LabError: `not_a_lab` and the ledger's own.
    """
    settings = lab_settings.load(root)
    rules = for_display(settings.promotion)
    champion = Repo(root).champion()
    ledger = Ledger(LabPaths(root).ledger)
    try:
        same = ledger.proposal_of(champion)
        finished = [score for _, score in ledger.finished_after(0)]
    finally:
        ledger.close()
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in finished:
        groups.setdefault((score.conditions, score.commit), []).append(score)
    rows = []
    for (conditions, commit), group in groups.items():
        pairs = [
            (score.val_bpb, score.test_bpb) for score in counted(group, rules) if score.val_bpb is not None and score.test_bpb is not None
        ]
        if pairs:
            val, test = zip(*pairs)
            rows.append(HiddenScore(commit, conditions, len(val), mean(val), sd(val), mean(test), sd(test), commit in (champion, same)))
    return sorted(rows, key=lambda row: (row.conditions, worsened(0.0, row.val_bpb, settings.metric.better)))


def findings(root: Path) -> list[tuple[str, str, str]]:
    """Return where checks of models failed: experiment, commit and finding, the oldest first.

    Raises:
        LabError: the ledger's.
    """
    ledger = Ledger(LabPaths(root).ledger)
    try:
        return ledger.findings()
    finally:
        ledger.close()


def table(scores: list[HiddenScore]) -> Table:
    """Return the scores for a terminal. A gap that grows from champion to champion says that the campaign fits the validation text."""
    rows = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("commit", "n", "validation", "hidden", "gap", "under", ""):
        rows.add_column(name, no_wrap=True)
    for row in scores:
        values = (_spread(row.val_bpb, row.val_sd), _spread(row.test_bpb, row.test_sd), f"{row.test_bpb - row.val_bpb:+.4f}")
        rows.add_row(row.commit[:12], str(row.n), *values, row.conditions[:6], "champion" if row.champion else "")
    return rows


def _spread(centre: float, spread: float | None) -> str:
    return f"{centre:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
