"""The whole campaign for whoever watches it live: kept in memory, and extended by what the ledger gained since."""

import functools
import gc
import itertools
import json
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.progress import Campaign, Course, Progress
from autoresearch_mcp.server.lab.status import LabStatus, leader_line
from autoresearch_mcp.server.lab.titles import title
from autoresearch_mcp.server.ledger.claims import Claim
from autoresearch_mcp.server.ledger.results import Ended, Endings, Row
from autoresearch_mcp.server.ledger.tallying import THE_LAB
from autoresearch_mcp.server.models import Promotion, Proposal, Verdict

_DAY_S = 86_400
_MANY, _LATE = 10_000, 1_000  # rows
_ID, _COMMIT, _FINISHED_AT = map(Ended._fields.index, ("id", "commit", "finished_at"))  # of a row
_IN_ORDER = itemgetter(_FINISHED_AT, _ID)  # as `in_order`


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
        campaign: what to know of it besides its experiments.
        aliases: commits that have a proposal's code on another parent, each with the commit of that proposal.
    """

    progress: Progress
    ended: Endings
    proposals: Proposals
    campaign: Campaign
    aliases: Mapping[str, str]

    @functools.cached_property
    def authors(self) -> list[str]:
        """Who launched what ended, in order; the lab's own replicates are `the lab`'s."""
        return sorted({THE_LAB if row[10] else row[8] for row in self.ended.rows()})

    @functools.cached_property
    def devices(self) -> list[str]:
        """On which kinds of device it was trained, in order."""
        return sorted({row[4] for row in self.ended.rows()})

    @functools.cached_property
    def was_champion(self) -> dict[str, bool]:
        """Return which proposals were promoted, by commit: whether that still holds, or was taken back."""
        moves = {}
        for each in self.campaign.promotions:
            moves[self.first_of(each.previous if each.is_demotion else each.commit)] = not each.is_demotion
        return moves

    def all_of(self, firsts: Collection[str]) -> set[str]:
        """Return the commits of these proposals, and those that have their code on another parent."""
        return {*firsts, *(commit for commit, first in self.aliases.items() if first in firsts)}

    def first_of(self, commit: str) -> str:
        """Return the commit of the proposal whose code a commit has: nearly always itself."""
        return self.aliases.get(commit, commit)

    def proposal(self, commit: str) -> Proposal | None:
        """Return the proposal whose code a commit has; None for the lab's first commit, and those of its owner."""
        return self.proposals.get(self.first_of(commit))

    def name(self, commit: str) -> str:
        """Return what people know a commit by: the title of its proposal, else where it came from."""
        proposal, moves = self.proposal(commit), self.campaign.promotions
        if proposal is not None:
            return title(proposal)
        return "baseline" if commit == (moves[0].previous if moves else self.campaign.champion.commit) else "a commit of the owner's"

    def heading(self, promotion: Promotion) -> str:
        """Return what a move of the champion is called: by what was promoted, adopted or taken back."""
        if promotion.is_demotion:
            return f"Taken back: {self.name(promotion.previous)}"
        return f"Adopted: {self.name(promotion.commit)}" if promotion.is_adoption else self.name(promotion.commit)

    def tags(self, commit: str) -> list[str]:
        """Return the tags of the proposal whose code a commit has."""
        proposal = self.proposal(commit)
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


class Spending:
    """Adds up what each agent used, as rows are added. What is no longer among them begins another one.

    Args:
        rows: of what ended; others may be added at their end.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._count = 0
        self._sums: dict[str, tuple[int, float, float]] = {}  # by agent: trainings, seconds, when the last ended
        self._days: defaultdict[tuple[str, int], float] = defaultdict(float)

    def shares(self) -> defaultdict[str, AgentShare]:
        """Return what each agent did so far."""
        sums, days = self._sums, self._days
        for row in itertools.islice(self.rows, self._count, None):
            name, started_at, finished_at = THE_LAB if row[10] else row[8], row[12], row[13]
            seconds = max(finished_at - started_at, 0.0) if started_at else 0.0
            ended, device_s, last_at = sums.get(name, (0, 0.0, 0.0))
            sums[name] = ended + 1, device_s + seconds, max(last_at, finished_at)
            days[name, int(finished_at // _DAY_S)] += seconds
        self._count = len(self.rows)
        shares = defaultdict(
            AgentShare, {name: AgentShare(ended, device_s, 0, last_at) for name, (ended, device_s, last_at) in sums.items()}
        )
        for (name, day), seconds in days.items():
            shares[name].by_day[_date(day)] = seconds
        return shares


class Campaigns:
    """Reads the ledger's rows once, and then only what is new. What was imported from other labs is not among them. Thread-safe."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._proposals = Proposals({})
        self._last_proposal = 0
        self._overview: tuple[object, Overview] | None = None
        self._looked_at: tuple[object, ...] = ()
        self._course: tuple[object, Course] | None = None  # what it depends on, and it
        self._shown: list[Row] = []  # what is in the course, in order
        self._spending = Spending([])
        self._tags: tuple[Proposals, list[str]] | None = None
        self._placed = 0  # rows that were looked at for it

    def overview(self) -> Overview:
        """Return the campaign so far."""
        with self._lock:
            now = self._core.ledger.changes(), self._core.settings_file.stamp(), self._core.repo.champion()
            if self._overview is not None and now == self._looked_at and now[1] is not None:
                return self._overview[1]
            self._looked_at = now
            before = len(self._rows)
            with _uncollected():
                self._catch_up()
                around = self._around()
                key = (len(self._rows), len(self._proposals), *around.values())
                if self._overview is None or self._overview[0] != key:
                    self._overview = key, self._make(around)
            if len(self._rows) - before > _MANY:
                gc.freeze()  # they stay: no collection has to go through them
            return self._overview[1]

    def ended(self) -> int:
        """Return how many experiments of this lab have ended."""
        self.overview()
        return len(self._rows)

    def among_ended(self, ids: Iterable[str]) -> set[str]:
        """Return those of these experiments that are of this lab, and have ended."""
        self.overview()
        return {row[1] for row in self._rows} & {*ids}

    def agents(self) -> dict[str, AgentShare]:
        """Return what each agent did, and on which days, by name; the lab's own replicates are `the lab`'s."""
        self.overview()
        with self._lock:
            if self._spending.rows is not self._shown:
                self._spending = Spending(self._shown)
            shares = self._spending.shares()
        for name, (count, last_at) in self._core.ledger.proposals_by_author().items():
            shares[name].proposals = count
            shares[name].last_at = max(shares[name].last_at, last_at)
        return dict(sorted(shares.items(), key=lambda item: -item[1].device_s))

    def leaderboard(self, most: int) -> list[a.Leader]:
        """Return the commits in the order of their likely gains, as the status shows the first of them."""
        now = self._status.snapshot()
        decisions = self.decisions([each.standing.commit for each in now.ranked[:most]])
        return [leader_line(each, decisions.get(each.standing.commit), now.lineage) for each in now.ranked[:most]]

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

    def last_words(self, commits: Collection[str]) -> dict[str, tuple[str, Verdict]]:
        """Return the word of the gate that ended the question of each of these commits, with the champion of then."""
        return self._core.ledger.last_words(commits)

    def awaiting_approval(self) -> dict[str, Verdict]:
        """Return what the gate lets through and a person has to agree to, by commit."""
        if self._core.settings.promotion.approval != "human":
            return {}
        ledger, champion = self._core.ledger, self._core.repo.champion()
        gone = ledger.withdrawn() | self._status.lineage().taken_back
        return {commit: verdict for commit, verdict in ledger.passing(champion, self._status.conditions()).items() if commit not in gone}

    def _catch_up(self) -> None:
        ledger = self._core.ledger
        self._rows += ledger.ended_after(self._rows[-1][0] if self._rows else 0)
        if records := ledger.proposal_records_after(self._last_proposal):
            self._proposals = self._proposals.with_more({commit: record for _, commit, record in records})
            self._last_proposal = records[-1][0]

    def _around(self) -> dict[str, Any]:
        """Return what a picture depends on besides the rows, which is little, and changes seldom."""
        core, settings, conditions = self._core, self._core.settings, self._status.conditions()
        undecided = core.ledger.undecided(core.repo.champion(), conditions)
        return {
            "apart": core.ledger.measurements() | core.ledger.withdrawn(),
            "aliases": core.ledger.aliases(),
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
        apart, aliases = around.pop("apart"), around.pop("aliases")
        campaign = Campaign(**around)
        course = self._course_of((campaign.conditions, campaign.reference, campaign.reported), apart)
        return Overview(course.progress(campaign), Endings(self._shown, len(self._shown)), self._proposals, campaign, aliases)

    def _course_of(self, basis: tuple[str, str, str], apart: frozenset[str]) -> Course:
        """Return the course of all rows: the one of before and what ended since, unless it isn't what it was any more."""
        fresh = sorted((row for row in self._rows[self._placed :] if row[_COMMIT] not in apart), key=_IN_ORDER)
        place = bisect_left(self._shown, _IN_ORDER(fresh[0]), key=_IN_ORDER) if fresh else len(self._shown)
        late = self._shown[place:]  # what ended after the first of these: several that end at once are recorded in any order
        if self._course is None or self._course[0] != (basis, apart) or len(late) > _LATE:
            fresh = sorted((row for row in self._rows if row[_COMMIT] not in apart), key=_IN_ORDER)
            self._course, self._shown = ((basis, apart), Course(*basis)), []
        elif late:
            self._course[1].take_back(late)
            self._shown, fresh = self._shown[:place], sorted([*late, *fresh], key=_IN_ORDER)
        self._course[1].add(fresh)
        self._shown += fresh
        self._placed = len(self._rows)
        return self._course[1]


@functools.cache
def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * _DAY_S))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from looking through what is read, again and again while it grows: it stays, and has no cycles."""
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_collecting:
            gc.enable()
