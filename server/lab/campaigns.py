"""The whole campaign for whoever watches it live: kept in memory, and extended by what the ledger gained since."""

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.progress import Campaign, Progress
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.ledger.claims import Claim
from autoresearch_mcp.server.ledger.results import Ended
from autoresearch_mcp.server.models import Promotion, Proposal, Verdict


@dataclass(frozen=True)
class Overview:
    """A campaign, and what its points stand for.

    Attributes:
        progress: the campaign as points.
        ended: experiments in the order of their numbers: the first is number 1.
        proposals: by commit, in the order in which they were made.
    """

    progress: Progress
    ended: tuple[Ended, ...]
    proposals: dict[str, Proposal]

    def tags(self, commit: str) -> list[str]:
        """Return the tags of a proposal."""
        proposal = self.proposals.get(commit)
        return proposal.tags if proposal else []


@dataclass
class AgentShare:
    """What one agent did.

    Attributes:
        ended: trainings that ended.
        device_s: seconds from their starts to their ends.
        proposals: how many it made.
        last_at: when it did something last, in Unix seconds.
    """

    ended: int = 0
    device_s: float = 0.0
    proposals: int = 0
    last_at: float = 0.0
    by_day: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class Campaigns:
    """Reads the ledger's rows once, and then only what is new. What was imported from other labs is not among them. Thread-safe."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status
        self._lock = threading.Lock()
        self._rows: list[Ended] = []
        self._proposals: dict[str, Proposal] = {}
        self._last_proposal = 0
        self._overview: tuple[object, Overview] | None = None
        self._looked_at: tuple[object, ...] = ()

    def overview(self) -> Overview:
        """Return the campaign so far."""
        with self._lock:
            now = self._core.ledger.changes(), self._core.settings_file.stamp(), self._core.repo.champion()
            if self._overview is not None and now == self._looked_at and now[1] is not None:
                return self._overview[1]
            self._looked_at = now
            self._catch_up()
            around = self._around()
            key = (len(self._rows), len(self._proposals), *around.values())
            if self._overview is None or self._overview[0] != key:
                self._overview = key, self._make(around)
            return self._overview[1]

    def agents(self) -> dict[str, AgentShare]:
        """Return what each agent did, and on which days, by name; the lab's own replicates are `the lab`'s."""
        overview = self.overview()
        shares: defaultdict[str, AgentShare] = defaultdict(AgentShare)
        for e in overview.ended:
            share = shares["the lab" if e.by_lab else e.author]
            share.ended += 1
            share.last_at = max(share.last_at, e.finished_at)
            seconds = max(e.finished_at - e.started_at, 0.0) if e.started_at else 0.0
            share.device_s += seconds
            share.by_day[f"{datetime.fromtimestamp(e.finished_at, UTC):%Y-%m-%d}"] += seconds
        for proposal in overview.proposals.values():
            share = shares[proposal.author]
            share.proposals += 1
            share.last_at = max(share.last_at, proposal.created_at)
        return dict(sorted(shares.items(), key=lambda item: -item[1].device_s))

    def promotions(self) -> list[Promotion]:
        """Return the lab's promotions, demotions and adoptions, the oldest first."""
        return self._core.ledger.promotions()

    def claims(self) -> list[Claim]:
        """Return who works on which idea now."""
        return self._core.ledger.claims()

    def decisions(self) -> dict[str, Verdict]:
        """Return the gate's last word on each commit that was compared with the champion of now."""
        return self._core.ledger.decisions(self._core.repo.champion(), self._status.conditions())

    def awaiting_approval(self) -> dict[str, Verdict]:
        """Return what the gate lets through and a person has to agree to, by commit."""
        if self._core.settings.promotion.approval != "human":
            return {}
        gone = self._core.ledger.withdrawn()
        return {commit: verdict for commit, verdict in self.decisions().items() if verdict.promote and commit not in gone}

    def _catch_up(self) -> None:
        ledger = self._core.ledger
        self._rows += ledger.ended_after(self._rows[-1].row if self._rows else 0)
        for row, proposal in ledger.proposals_after(self._last_proposal, -1):
            self._proposals[proposal.commit] = proposal
            self._last_proposal = row

    def _around(self) -> dict[str, Any]:
        """Return what a picture depends on besides the rows, which is little, and changes seldom."""
        core, settings, conditions = self._core, self._core.settings, self._status.conditions()
        undecided = {commit for commit, verdict in self.decisions().items() if not verdict.final and verdict.code == "continue"}
        return {
            "apart": core.ledger.measurements() | core.ledger.withdrawn(),
            "promotions": core.ledger.promotions(),
            "title": settings.lab.name,
            "champion": self._status.summary(core.repo.champion(), conditions),
            "undecided": {*undecided, *(each.commit for each in core.ledger.open_candidacies())},
            "conditions": conditions,
            "reported": settings.metric.name if settings.trust == "reported" else "",
            "measured": settings.metric.title,
            "goal": settings.metric.better,
            "reference": settings.reference,
            "noise": self._status.noise(conditions),
        }

    def _make(self, around: dict[str, Any]) -> Overview:
        apart = around["apart"]
        shown = sorted((e for e in self._rows if e.commit not in apart), key=lambda e: (e.finished_at, e.id))
        campaign = Campaign(experiments=shown, **{name: value for name, value in around.items() if name != "apart"})
        return Overview(Progress.of(campaign), tuple(shown), dict(self._proposals))
