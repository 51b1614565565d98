"""Directions of the search: what came of the ideas with each tag, and who works on them."""

import math
import time
from collections.abc import Iterable, Mapping

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.status import LabStatus, Snapshot
from autoresearch_mcp.server.ledger.ideas import AFTER, DIRECTION, Work

MOST = 20  # directions, those with the latest activity
_AGENTS = 4  # that are named for each
_DEAR_S, _RESTS = 0.1, 20  # CPU seconds from which on a reading is dear, and for how many times as long its answer is given again

Gains = dict[str, tuple[float, float]]  # largest gain and its standard error, by tag


class Directions:
    """Reads the ledger, again only after a change, and with tens of thousands of ideas not after every one. Thread-safe: what it keeps is replaced whole."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status
        self._known: tuple[object, float, list[a.Direction]] = (
            None,
            0.0,
            [],
        )  # of which state, until when it is good enough, and the answer

    def all(self) -> list[a.Direction]:
        """Return the directions, the one with the latest activity first."""
        key = (self._core.ledger.changes(), self._core.repo.champion())
        if self._known[0] != key and time.monotonic() >= self._known[1]:
            now, began = self._status.snapshot(), time.thread_time()
            answer, took = self._read(now), time.thread_time() - began
            self._known = key, time.monotonic() + (_RESTS * took if took > _DEAR_S else 0.0), answer
        return self._known[2]

    def _read(self, now: Snapshot) -> list[a.Direction]:
        work = self._core.ledger.work()[:MOST]
        if not work:
            return []
        tags = self._core.ledger.tags_of_commits()
        promoted, gains = self._promoted(tags)
        for tag, (gain, se) in self._likely(tags, now).items():
            if tag not in gains or gain > gains[tag][0]:
                gains[tag] = gain, se
        agents = self._agents(tags, now)
        return [_direction(each, promoted.get(each.tag, 0), gains.get(each.tag), agents.get(each.tag, ())) for each in work]

    def _promoted(self, tags: Mapping[str, list[str]]) -> tuple[dict[str, int], Gains]:
        """Return how many promotions each direction has that stand, and the largest gain of them."""
        ledger = self._core.ledger
        promotions = ledger.promotions()
        undone = {each.verdict.get("undoes") for each in promotions}
        counts, gains = dict[str, int](), Gains()
        for each in promotions:
            if each.is_demotion or each.is_adoption or each.id in undone:
                continue
            for tag in tags.get(each.commit) or tags.get(ledger.proposal_of(each.commit), []):
                counts[tag] = counts.get(tag, 0) + 1
                gain = float(each.verdict.get("gain") or 0.0)
                if tag not in gains or gain > gains[tag][0]:
                    gains[tag] = gain, float(each.verdict.get("se") or 0.0)
        return counts, gains

    def _likely(self, tags: Mapping[str, list[str]], now: Snapshot) -> Gains:
        """Return the largest likely gain of each direction on the champion of now."""
        gains = Gains()
        if not now.noise or not now.champion.n:
            return gains
        standings = self._status.standings(self._status.conditions(), now.likely)
        for commit, (gain, _) in now.likely.items():
            for tag in tags.get(commit, []):
                if tag not in gains or gain > gains[tag][0]:
                    gains[tag] = gain, now.noise * math.sqrt(1 / standings[commit].n + 1 / now.champion.n)
        return gains

    def _agents(self, tags: Mapping[str, list[str]], now: Snapshot) -> dict[str, list[str]]:
        """Return who holds an idea of each direction, or has something of it queued or running."""
        ledger = self._core.ledger
        claims = ledger.claims()
        of_ideas = ledger.tags_of_ideas([claim.idea for claim in claims])
        at_work = [(claim.holder, of_ideas.get(claim.idea, [])) for claim in claims]
        at_work += [(e.author, tags.get(e.commit, [])) for e in now.open if not e.by_lab]
        agents = dict[str, list[str]]()
        for agent, theirs in at_work:
            for tag in theirs:
                if tag != DIRECTION and not tag.startswith(AFTER) and agent not in agents.setdefault(tag, []):
                    agents[tag].append(agent)
        return agents


def _direction(work: Work, promoted: int, gain: tuple[float, float] | None, agents: Iterable[str]) -> a.Direction:
    return a.Direction(
        tag=work.tag,
        ideas=work.ideas,
        tried=work.tried or None,
        failed=work.failed or None,
        promoted=promoted or None,
        device_hours=round(work.device_s / 3600, 2) or None,
        gain=gain and gain[0],
        se=gain and gain[1],
        active_at=work.at,
        who=list(agents)[:_AGENTS],
    )
