"""The whole campaign for whoever watches it live: kept in memory, and extended by what the ledger gained since."""

import functools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.lineage import Lineage
from autoresearch_mcp.server.lab.progress import Campaign, Course, Progress, in_order
from autoresearch_mcp.server.lab.status import LabStatus, leader_line
from autoresearch_mcp.server.ledger.claims import Claim
from autoresearch_mcp.server.ledger.results import Ended
from autoresearch_mcp.server.models import Promotion, Proposal, Verdict

_DAY_S = 86_400


class Proposals(Mapping[str, Proposal]):
    """Proposals by commit, in the order in which they were made. A record is parsed when somebody asks for it: most are never asked for."""

    def __init__(self, records: Mapping[str, str]) -> None:
        self._records = records
        self._parsed: dict[str, Proposal] = {}

    def __getitem__(self, commit: str) -> Proposal:
        proposal = self._parsed.get(commit)
        if proposal is None:
            proposal = self._parsed[commit] = Proposal.model_validate_json(self._records[commit])
        return proposal

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, commit: object) -> bool:
        return commit in self._records

    def tagged(self, tag: str) -> set[str]:
        """Return the commits of the proposals with a tag."""
        written = json.dumps(tag, ensure_ascii=False)  # as pydantic writes it
        likely = [commit for commit, record in self._records.items() if written in record]
        return {commit for commit in likely if tag in self[commit].tags}

    def with_more(self, records: Mapping[str, str]) -> "Proposals":
        """Return these and newer ones."""
        more = Proposals({**self._records, **records})
        more._parsed = self._parsed  # shared: a record never changes here
        return more


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
    proposals: Proposals

    @functools.cached_property
    def authors(self) -> list[str]:
        """Who launched what ended, in order; the lab's own replicates are `the lab`'s."""
        return sorted({"the lab" if e.by_lab else e.author for e in self.ended})

    @functools.cached_property
    def devices(self) -> list[str]:
        """On which kinds of device it was trained, in order."""
        return sorted({e.device for e in self.ended})

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
        self._proposals = Proposals({})
        self._last_proposal = 0
        self._overview: tuple[object, Overview] | None = None
        self._looked_at: tuple[object, ...] = ()
        self._course: tuple[object, Course] | None = None  # what it depends on, and it
        self._shown: list[Ended] = []  # what is in the course, in order
        self._tags: tuple[Proposals, list[str]] | None = None
        self._placed = 0  # rows that were looked at for it

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
        shares: defaultdict[str, AgentShare] = defaultdict(AgentShare)
        days: defaultdict[tuple[str, int], float] = defaultdict(float)
        for e in self.overview().ended:
            name = "the lab" if e.by_lab else e.author
            share, seconds = shares[name], max(e.finished_at - e.started_at, 0.0) if e.started_at else 0.0
            share.ended += 1
            share.device_s += seconds
            share.last_at = max(share.last_at, e.finished_at)
            days[name, int(e.finished_at // _DAY_S)] += seconds
        for (name, day), seconds in days.items():
            shares[name].by_day[time.strftime("%Y-%m-%d", time.gmtime(day * _DAY_S))] = seconds
        for name, (count, last_at) in self._core.ledger.proposals_by_author().items():
            shares[name].proposals = count
            shares[name].last_at = max(shares[name].last_at, last_at)
        return dict(sorted(shares.items(), key=lambda item: -item[1].device_s))

    def leaderboard(self, most: int) -> list[a.Leader]:
        """Return the commits in the order of their likely gains, as the status shows the first of them."""
        now = self._status.snapshot()
        lineage = Lineage(self._core.ledger, now.champion.commit)
        decisions = self.decisions([each.standing.commit for each in now.ranked[:most]])
        return [leader_line(each, decisions.get(each.standing.commit), lineage) for each in now.ranked[:most]]

    def tags(self) -> list[str]:
        """Return the tags of all proposals, in order."""
        known = self.overview().proposals
        if self._tags is None or self._tags[0] is not known:
            self._tags = known, self._core.ledger.proposal_tags()
        return self._tags[1]

    def built_on(self, commit: str, limit: int) -> list[Proposal]:
        """Return the newest proposals on a commit, the oldest first."""
        return self._core.ledger.built_on(commit, limit)

    def promotions(self) -> list[Promotion]:
        """Return the lab's promotions, demotions and adoptions, the oldest first."""
        return self._core.ledger.promotions()

    def claims(self) -> list[Claim]:
        """Return who works on which idea now."""
        return self._core.ledger.claims()

    def decisions(self, commits: Collection[str]) -> dict[str, Verdict]:
        """Return the gate's last word on those of some commits that were compared with the champion of now."""
        return self._core.ledger.decisions(self._core.repo.champion(), self._status.conditions(), commits)

    def awaiting_approval(self) -> dict[str, Verdict]:
        """Return what the gate lets through and a person has to agree to, by commit."""
        if self._core.settings.promotion.approval != "human":
            return {}
        gone, passing = self._core.ledger.withdrawn(), self._core.ledger.passing(self._core.repo.champion(), self._status.conditions())
        return {commit: verdict for commit, verdict in passing.items() if commit not in gone}

    def _catch_up(self) -> None:
        ledger = self._core.ledger
        self._rows += ledger.ended_after(self._rows[-1].row if self._rows else 0)
        if records := ledger.proposal_records_after(self._last_proposal):
            self._proposals = self._proposals.with_more({commit: record for _, commit, record in records})
            self._last_proposal = records[-1][0]

    def _around(self) -> dict[str, Any]:
        """Return what a picture depends on besides the rows, which is little, and changes seldom."""
        core, settings, conditions = self._core, self._core.settings, self._status.conditions()
        undecided = core.ledger.undecided(core.repo.champion(), conditions)
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
        apart = around.pop("apart")
        campaign = Campaign(experiments=(), **around)
        course = self._course_of((campaign.conditions, campaign.reference, campaign.reported), apart)
        return Overview(course.progress(campaign), tuple(self._shown), self._proposals)

    def _course_of(self, basis: tuple[str, str, str], apart: frozenset[str]) -> Course:
        """Return the course of all rows: the one of before and what ended since, unless it isn't what it was any more."""
        fresh = sorted((e for e in self._rows[self._placed :] if e.commit not in apart), key=in_order)
        is_same = self._course is not None and self._course[0] == (basis, apart)
        if self._course is None or not is_same or (fresh and self._shown and in_order(fresh[0]) < in_order(self._shown[-1])):
            fresh = sorted((e for e in self._rows if e.commit not in apart), key=in_order)
            self._course, self._shown = ((basis, apart), Course(*basis)), []
        self._course[1].add(fresh)
        self._shown += fresh
        self._placed = len(self._rows)
        return self._course[1]
