"""The scores on the hidden split, for the lab's owner on the command line: no tool, resource or log holds them.

Whoever tunes a lab by these numbers makes the split a second validation set: look, and keep them from the agents.
"""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.table import Table

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.gate.judge import mean, sd
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo


@dataclass(frozen=True)
class HiddenScore:
    """A commit's replicates under one set of conditions, on both splits, in bits per byte. `sd` is None for a single one."""

    commit: str
    conditions: str
    n: int
    val_bpb: float
    val_sd: float | None
    test_bpb: float
    test_sd: float | None
    champion: bool


def hidden_scores(root: Path) -> list[HiddenScore]:
    """All that finished with both scores; the best on validation first, under each set of conditions.

    Raises:
        LabError: `not_a_lab` and the ledger's own.
    """
    lab_settings.load(root)
    champion = Repo(root).champion()
    ledger = Ledger(LabPaths(root).ledger)
    try:
        same = ledger.proposal_of(champion)
        rows = sorted(ledger.test_scores())
    finally:
        ledger.close()
    found = []
    for (conditions, commit), group in groupby(rows, key=lambda row: row[:2]):
        val, test = zip(*(row[2:] for row in group))
        found.append(HiddenScore(commit, conditions, len(val), mean(val), sd(val), mean(test), sd(test), commit in (champion, same)))
    return sorted(found, key=lambda row: (row.conditions, row.val_bpb))


def table(scores: list[HiddenScore]) -> Table:
    """For a terminal. A gap that grows from champion to champion says that the campaign fits the validation text."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("commit", "n", "val_bpb", "test_bpb", "gap", "under", ""):
        made.add_column(name, no_wrap=True)
    for row in scores:
        values = (_spread(row.val_bpb, row.val_sd), _spread(row.test_bpb, row.test_sd), f"{row.test_bpb - row.val_bpb:+.4f}")
        made.add_row(row.commit[:12], str(row.n), *values, row.conditions[:6], "champion" if row.champion else "")
    return made


def _spread(centre: float, spread: float | None) -> str:
    return f"{centre:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
