"""The backlog: ideas that nobody tried, holds, or waits with, the most promising first; and those that the lab adds itself."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.lineage import Lineage
from autoresearch_mcp.server.lab.similar import SimilarProposals
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.lab.titles import title
from autoresearch_mcp.server.lake.base import Condition, Query
from autoresearch_mcp.server.ledger.ideas import AFTER
from autoresearch_mcp.server.models import Memory, new_id

SUGGESTED_BY = "[lab]"  # author of the lab's own ideas
PROMISING = 0.9  # chance to be better than the champion, from which on a proposal is worth combining
COMBINATION = "combination"  # tag of such ideas
_COMBINED = 4  # promising proposals whose pairs are looked at
_RELATIVES = 5  # proposals that an idea's expected gain comes from
_CACHED = 2_000  # ideas whose relatives are kept


@dataclass(frozen=True)
class _Work:
    """What is known of the work on ideas, read once a call."""

    holders: dict[str, str]  # by idea
    commits: dict[str, list[str]]  # by idea
    training: dict[str, str]  # author by commit
    lineage: Lineage  # of the champion


class Backlog:
    """Tells which ideas are free, and how promising each is. Thread-safe."""

    def __init__(self, core: LabCore, similar: SimilarProposals, status: LabStatus) -> None:
        self._core = core
        self._similar = similar
        self._status = status
        self._relatives: dict[str, tuple[int, list[tuple[str, float]]]] = {}

    def free(self, ideas: Sequence[a.MemoryHit], author: str) -> list[a.MemoryHit]:
        """Return the ideas that an agent can begin with, the most promising first, each with why it stands there.

        Args:
            ideas: untried ones, as far as their texts tell.
            author: its own claims are no obstacle.
        """
        self._core.ledger.know_ideas(ideas)
        work = self._work()
        waits = self._untried_of(ideas, work)
        free = [
            idea
            for idea in ideas
            if work.holders.get(idea.id, author) == author and not self._done(idea, work) and waits.isdisjoint(awaited(idea.tags))
        ]
        gains = self._status.likely_gains() if free else {}
        return sorted((self._described(idea, gains) for idea in free), key=lambda idea: (-idea.score, idea.created_at, idea.id))

    def done(self, idea: Memory) -> str:
        """Say what became of an idea that was tried, is being trained, or was superseded; empty where it can be begun."""
        return self._done(idea, self._work()) or self._superseded(idea)

    def suggest_combinations(self) -> None:
        """Write an idea for each pair of promising proposals that nobody combined, once for each pair."""
        ledger, champion = self._core.ledger, self._core.repo.champion()
        lineage, apart = Lineage(ledger, champion), ledger.measurements()
        promising = [
            commit
            for commit in self._status.promising(PROMISING)
            if commit not in apart and not lineage.holds(commit) and not lineage.is_stale(commit)
        ][:_COMBINED]
        for one, other in itertools.combinations(promising, 2):
            if one in ledger.bases(other) or other in ledger.bases(one) or self._similar.combination(one, other):
                continue
            ours, theirs = ledger.proposal(one), ledger.proposal(other)
            if ours is None or theirs is None:
                continue
            text = (
                f"Combine {one[:12]} ({title(ours)}) with {other[:12]} ({title(theirs)}): each is likely better than the champion alone, and "
                f"nobody tried both together. propose_patch(port={other[:12]!r}, base={one[:12]!r}) makes the commit, where they touch different lines."
            )
            memory = Memory(
                id=new_id("m"),
                kind="idea",
                text=text,
                author=SUGGESTED_BY,
                tags=[COMBINATION],
                commits=[one, other],
                created_at=time.time(),
            )
            ledger.suggest(memory)

    def _work(self) -> _Work:
        ledger = self._core.ledger
        training = {each.commit: each.author for each in ledger.open_candidacies()}
        training |= {e.commit: e.author for e in ledger.open_experiments()}
        lineage = Lineage(ledger, self._core.repo.champion())
        return _Work({claim.idea: claim.holder for claim in ledger.claims()}, ledger.commits_of_ideas(), training, lineage)

    def _done(self, idea: Memory, work: _Work) -> str:
        for commit in reversed(work.commits.get(idea.id, [])):
            if commit in work.training:
                return f"{work.training[commit]} is training it as {commit[:12]}."
            if results := "; ".join(self._results(commit)):
                return f"it was tried as {commit[:12]}: {results}."
        held = (commit for commit in idea.commits if work.lineage.holds(commit))
        if COMBINATION in idea.tags and (part := next(held, "")):
            return f"the champion holds a part of it, {part[:12]}: promote_commit rebases the other."
        return ""

    def _results(self, commit: str) -> Iterator[str]:
        conditions = self._status.conditions()
        metric = self._status.summary(commit, conditions)
        if metric.mean is not None:
            yield f"mean {metric.mean:.4f} (n {metric.n})"
        verdict = self._core.ledger.decisions(self._core.repo.champion(), conditions, [commit]).get(commit)
        if verdict is not None:
            yield f"the gate says {verdict.code}"
        elif metric.mean is None and (ended := [score for score in self._core.ledger.scores(commit) if score.started]):
            yield f"{ended[-1].state}"

    def _superseded(self, idea: Memory) -> str:
        later = self._core.view.select("memories", Query((Condition("supersedes", "has any", [idea.id]),), limit=1)).value
        return f"{later[0].id} supersedes it." if later else ""

    def _untried_of(self, ideas: Sequence[a.MemoryHit], work: _Work) -> set[str]:
        """Return the ideas that others wait for and that have no results yet."""
        named = {id for idea in ideas for id in awaited(idea.tags)}
        return {id for id in named if not any(map(self._core.ledger.scores, work.commits.get(id, [])))}

    def _described(self, idea: a.MemoryHit, gains: dict[str, float]) -> a.MemoryHit:
        """Return an idea with its expected gain as its score: that of its relatives, weighed by likeness, with one without gain added."""
        known = [(gains[commit], likeness) for commit, likeness in self._relatives_of(idea) if commit in gains]
        expected = sum(gain * likeness for gain, likeness in known) / (1 + sum(likeness for _, likeness in known))
        why = f"expected gain {expected:+.2g}, from {len(known)} like it" if known else "nothing like it was measured"
        return idea.model_copy(update={"score": expected, "why": why})

    def _relatives_of(self, idea: Memory) -> list[tuple[str, float]]:
        known = self._similar.size()
        size, relatives = self._relatives.get(idea.id, (-1, []))
        if size != known:
            relatives = self._similar.relatives(idea.text, _RELATIVES)
            if len(self._relatives) >= _CACHED:
                self._relatives.clear()
            self._relatives[idea.id] = known, relatives
        return relatives


def awaited(tags: Sequence[str]) -> list[str]:
    """Return the ids of the ideas that tags say to wait for."""
    return [tag.removeprefix(AFTER) for tag in tags if tag.startswith(AFTER)]
