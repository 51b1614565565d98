"""What is known of a commit over all its replicates: its gain on the champion, how sure that is, and what the gate said of it."""

import math
from typing import Any

from autoresearch_mcp.server.gate.judge import rules_of
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.lineage import Lineage, standing_in_words
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.lab.titles import title


class Commits:
    """Describes commits beside the champion of now. Thread-safe: it keeps nothing between calls."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status

    def rows(self, counts: dict[str, int]) -> list[dict[str, Any]]:
        """Return a row for each commit: idea, author, n, mean, sd, steps, gain with its error, and its state.

        Args:
            counts: experiments of each commit, ended or not.

        Returns:
            The largest gain first, then what was not measured under the champion's conditions.
        """
        core, conditions = self._core, self._status.conditions()
        champion = core.repo.champion()
        standings = self._status.standings(conditions)
        verdicts = core.ledger.decisions(champion, conditions)
        lineage = Lineage(core.ledger, champion)
        measurements, withdrawn = core.ledger.measurements(), core.ledger.withdrawn()
        level, noise = self._status.summary(champion, conditions), self._status.noise(conditions)
        rows = []
        for commit, experiments in counts.items():
            proposal, standing = core.ledger.proposal(commit), standings.get(commit)
            row: dict[str, Any] = {"commit": commit, "idea": title(proposal) if proposal else "baseline"}
            row |= {"author": proposal.author} if proposal else {}
            row["experiments"] = experiments
            if commit in measurements:
                summary = self._status.summary(commit, conditions)
                rows.append(row | {"n": summary.n, "mean": summary.mean, "sd": summary.sd, "state": "measurement only"})
                continue
            if standing is not None:
                row |= {"n": standing.n, "mean": standing.mean, "sd": standing.sd, "steps": standing.steps}
                if commit != champion and level.mean is not None:
                    row["gain"] = rules_of(core.settings.promotion).gain(standing.mean, level.mean)
                    row["se"] = noise * math.sqrt(1 / standing.n + 1 / level.n) if noise is not None else None
            n = standing.n if standing else 0
            row["state"] = (
                "withdrawn"
                if commit in withdrawn
                else standing_in_words(commit, n, row.get("gain"), row.get("se"), verdicts.get(commit), lineage)
            )
            rows.append(row)
        return sorted(rows, key=lambda row: -row.get("gain", -math.inf if row["commit"] != champion else 0.0))
