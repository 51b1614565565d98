"""Brakes: launches that are seldom meant, which need a second word."""

from collections.abc import Iterator, Sequence

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.lineage import Lineage
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.settings import Settings

SHARE = 0.1  # of what is left of the budget, that one launch may hold back
LONG_S = 600.0  # of all slots, that one launch may take while others wait


class Brakes:
    """Looks at a launch before it is queued."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status

    def check(self, wanted: Sequence[Experiment], settings: Settings) -> None:
        """Refuse a launch that is seldom meant.

        Args:
            wanted: replicates of one commit, as they would be queued.
            settings: the lab's, as the launch has them.

        Raises:
            LabError: `confirm`, with all that speaks against it.
        """
        if why := [*self._of_commit(wanted[0].commit), *self._of_size(wanted, settings)]:
            raise LabError(
                f"Nothing was queued, as this launch is seldom meant: {' '.join(why)} If you mean it, call launch_training with confirm=true.",
                "confirm",
            )

    def _of_commit(self, commit: str) -> Iterator[str]:
        core = self._core
        if core.ledger.proposal(commit) is None or commit in core.ledger.measurements():
            return
        champion = core.repo.champion()
        lineage = Lineage(core.ledger, champion)
        if lineage.holds(commit):
            return
        verdict = core.ledger.decisions(champion, self._status.conditions(), [commit]).get(commit)
        if verdict is not None and not verdict.promote and (verdict.final or verdict.code == "futile"):
            yield f"the gate has decided against {commit[:12]} ({verdict.code}), and more replicates rarely change that."
        if lineage.is_stale(commit):
            yield (
                f"{commit[:12]} was built on an earlier champion than {champion[:12]}: propose_patch(port={commit[:12]!r}) puts its change on "
                "that one."
            )

    def _of_size(self, wanted: Sequence[Experiment], settings: Settings) -> Iterator[str]:
        budget = self._status.budget()
        held_s = sum(e.held_s for e in wanted)
        if len(wanted) == 1:  # there is no smaller one
            return
        if held_s > SHARE * budget.left_s:
            yield f"it holds back {held_s:.0f} s, more than a tenth of the {budget.left_s:.0f} s that are left of the budget."
        if budget.usd is not None and (usd := sum(e.reserved_usd * e.held_s / e.reserved_s for e in wanted)) > SHARE * budget.usd.left:
            yield f"it holds back {usd:.2f} USD, more than a tenth of the {budget.usd.left:.2f} USD that are left of the budget."
        whole_s = held_s / settings.slots
        if whole_s > LONG_S:
            others = {e.author for e in self._core.ledger.open_experiments("queued") if not e.by_lab} - {wanted[0].author}
            if others:
                yield f"it takes all slots for {whole_s / 60:.0f} min while {len(others)} other author{'s' * (len(others) > 1)} wait: launch fewer."
