"""Earlier proposals that resemble an idea, so that nobody spends a device on it again without knowing.

A search finds the proposals that hold its words, in the hypothesis or in the names of the constants that they set. Of a new proposal,
those with the same constants or the same hunks are told. Hypotheses are compared by their words, where rare words count more, and by
their meaning where a local model is installed. An endpoint is not asked: every server would have to send it every hypothesis of the lab.
"""

import functools
import heapq
import itertools
import math
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Proposal
from autoresearch_mcp.server.search.embedding import Embedder, EmbeddingsUnavailable
from autoresearch_mcp.server.search.text import terms

if TYPE_CHECKING:
    from autoresearch_mcp.server.search.embedding import Vectors

MOST = 5_000  # proposals to keep in memory, the newest
MOST_SIMILAR = 3  # told of one idea
MOST_CONSTANTS, MOST_VALUES = 3, 4  # told of one change
NEAR_WORDS = 0.5  # of the weight of all words in either text, the share that is in both
NEAR_MEANING = 0.6  # cosine; of unrelated hypotheses it is below 0.3
RELATED = 0.6  # of being near: what tells of an idea's neighbourhood
_GROWN = 1.02  # how many times as many proposals as when words were weighed; then they are weighed anew
_FIRST_LOOK = 32  # proposals whose measurements are read at first


class SimilarProposals:
    """The lab's proposals in memory, kept in step by reading only what is new. Thread-safe."""

    def __init__(self, ledger: Ledger, embedder: Embedder | None, status: LabStatus) -> None:
        """Read nothing yet. `status` knows under which conditions metrics are compared now: others go into no mean."""
        self._ledger = ledger
        self._status = status
        self._embedder = embedder if embedder is not None and embedder.local else None
        self._lock = threading.Lock()
        self._read_to = 0
        self._remarks_to = 0
        self._withdrawn = set[str]()
        self._proposals: list[Proposal] = []
        self._words: list[frozenset[str]] = []
        self._holders: Counter[str] = Counter()
        self._weights = dict[str, float]()  # of the words of proposals
        self._weighed = 0  # how many proposals there were then
        self._totals: list[float] = []  # the weight of all words of each proposal
        self._vectors: list[Any] = []
        self._matrix: Any = None  # the same as one array; None until it is needed

    def find(self, idea: str, holds: bool = False) -> list[a.SimilarProposal]:
        """Return the proposals that are most like the idea, best first. There may be none.

        Args:
            idea: a hypothesis or a search text.
            holds: whether a proposal that holds the words of the idea is like it, whatever else it says.
        """
        return self._likest(self._ranked(idea, MOST_SIMILAR, holds))

    def before(self, idea: str) -> tuple[list[a.SimilarProposal], float]:
        """Return what `find` does, and how new an idea is that is not proposed yet: 0 says the same as another, 1 resembles nothing."""
        ranked = self._ranked(idea, MOST_SIMILAR)
        return self._likest(ranked), round(1 - min(1.0, ranked[0][0]), 3) if ranked else 1.0

    def relatives(self, idea: str, limit: int) -> list[tuple[str, float]]:
        """Return the commits of proposals around an idea, with how like it they are: 1 says the same."""
        return [(self._proposals[n].commit, min(near, 1.0)) for near, _, n in self._ranked(idea, limit) if near >= RELATED]

    def likeness(self, idea: str, texts: Sequence[str]) -> list[float]:
        """Return how like an idea each text is: from 1 on, it says the same."""
        words = frozenset(terms(idea))
        with self._lock:
            self._extend()
            ours = self._weight(words)
            by_words = [
                self._shared(words, ours, each, self._weight(each)) / NEAR_WORDS for each in (frozenset(terms(text)) for text in texts)
            ]
            if self._embedder is None or not texts:
                return by_words
            try:
                first, *others = self._embedder.embed([idea, *texts])
            except EmbeddingsUnavailable:
                return by_words
        return [max(near, float(other @ first) / NEAR_MEANING) for near, other in zip(by_words, others, strict=True)]

    def size(self) -> int:
        """Return a number that grows with each proposal."""
        with self._lock:
            self._extend()
            return self._read_to

    def combination(self, one: str, other: str) -> str:
        """Return a proposal that puts the change of one proposal on top of the other; empty where there is none."""
        with self._lock:
            self._extend()
            ports = [each for each in self._proposals if each.ported_from in (one, other)]
        below = {one: other, other: one}
        return next((each.commit for each in ports if below[each.ported_from] in (each.base, *self._ledger.bases(each.base))), "")

    def _likest(self, ranked: list[tuple[float, float, int]]) -> list[a.SimilarProposal]:
        best = [each for each in ranked if each[0] >= 1]
        conditions = self._status.conditions() if best else ""
        return [self._described(self._proposals[n], min(like, 1.0), conditions) for _, like, n in best]

    def _ranked(self, idea: str, most: int, holds: bool = False) -> list[tuple[float, float, int]]:
        """Return how like an idea the likest proposals are, the most first: against what says the same, by itself, and which each is."""
        words = frozenset(terms(idea))
        with self._lock:
            self._extend()
            ours = self._weight(words)
            totals = itertools.repeat(0.0) if holds else self._totals
            by_words = [self._shared(words, ours, each, total) for each, total in zip(self._words, totals)]
            by_meaning = self._cosines(idea)
            withdrawn = frozenset(self._withdrawn)
        likeness = ((max(w / NEAR_WORDS, m / NEAR_MEANING), max(w, m), n) for n, (w, m) in enumerate(zip(by_words, by_meaning)))
        return heapq.nlargest(most, (each for each in likeness if self._proposals[each[2]].commit not in withdrawn))

    def _extend(self) -> None:
        corrected = set[str]()
        for remark in self._ledger.remarks_after(self._remarks_to):
            self._remarks_to = remark.seq
            match remark.kind:
                case "corrected":
                    corrected.add(remark.commit)
                case "withdrawn":
                    self._withdrawn.add(remark.commit)
                case "restored":
                    self._withdrawn.discard(remark.commit)
        anew = False
        for place, known in enumerate(self._proposals):
            if known.commit in corrected and (now := self._ledger.proposal(known.commit)) is not None:
                self._holders.subtract(self._words[place])
                self._put([now], place)
                anew = True
        if fresh := self._ledger.proposals_after(self._read_to, MOST):
            self._read_to = fresh[-1][0]
            self._put([proposal for _, proposal in fresh], len(self._proposals))
        if anew or fresh:
            self._weigh(anew)

    def _put(self, proposals: list[Proposal], place: int) -> None:
        """Put proposals at a place: over the one that is there, or at the end."""
        until, self._matrix = place + len(proposals), None
        words = [frozenset(terms(" ".join([proposal.hypothesis, proposal.title, *proposal.sets]))) for proposal in proposals]
        self._proposals[place:until] = proposals
        self._words[place:until] = words
        self._holders.update(word for each in words for word in each)
        if self._embedder is not None:
            try:
                self._vectors[place:until] = self._embedder.embed([proposal.hypothesis for proposal in proposals])
            except EmbeddingsUnavailable:
                self._embedder = None  # a local model that can't be read won't mend itself

    def _weigh(self, anew: bool) -> None:
        """Weigh the proposals that came, and with `anew` or after many of them all words and all proposals."""
        size = len(self._words)
        if anew or size > _GROWN * self._weighed:
            self._weighed, self._weights = size, {word: math.log(1 + (size + 1) / (n + 1)) for word, n in self._holders.items()}
            self._totals = []
        self._totals += [self._weight(each) for each in self._words[len(self._totals) :]]

    def of_change(self, proposal: Proposal) -> Iterator[str]:
        """Yield what is known of a proposal's change from others: the same hunks on another base, and other values of its constants."""
        with self._lock:
            self._extend()
            others = [each for each in self._proposals if each.commit not in {proposal.commit, *self._withdrawn}]
        if same := next((each for each in reversed(others) if each.change and each.change == proposal.change), None):
            yield f"{same.commit[:12]} is the same change on {same.base[:12]}."
        names, conditions = list(proposal.sets)[:MOST_CONSTANTS], self._status.conditions()
        mean_of = functools.cache(lambda commit: self._status.summary(commit, conditions).mean)
        for name in names:
            alike = self._measured([each for each in reversed(others) if name in each.sets], conditions)
            told = (self._gave(each, name, conditions, mean_of(each.base)) for each in alike)
            if tried := list(itertools.islice(filter(None, told), MOST_VALUES)):
                yield f"Others that set {name}: {', '.join(tried)}."

    def _measured(self, proposals: list[Proposal], conditions: str) -> Iterator[Proposal]:
        """Yield those of the proposals that were measured: most are never trained, and the first few are wanted."""
        size = _FIRST_LOOK
        while proposals:
            part, proposals, size = proposals[:size], proposals[size:], 4 * size
            measured = self._status.standings(conditions, [each.commit for each in part])
            yield from (each for each in part if each.commit in measured)

    def _gave(self, proposal: Proposal, name: str, conditions: str, base: float | None) -> str:
        """Return what a value of a constant gained on its base, in words; empty where either was not measured."""
        metric = self._status.summary(proposal.commit, conditions)
        if metric.mean is None or base is None:
            return ""
        return f"{proposal.sets[name]} gave {self._status.gain(metric.mean, base):+.3f} (n {metric.n})"

    def _shared(self, ours: frozenset[str], our_weight: float, theirs: frozenset[str], their_weight: float) -> float:
        """Return the share of the weight of all words that is in both texts."""
        if not (common := ours & theirs):
            return 0.0
        weight = self._weight(common)
        return weight / max(our_weight, our_weight + their_weight - weight)

    def _weight(self, words: frozenset[str]) -> float:
        weights, unheld = self._weights, math.log(2 + self._weighed)
        return sum([weights.get(word, unheld) for word in words])

    def _cosines(self, idea: str) -> list[float]:
        if self._embedder is None or not self._proposals:
            return [0.0] * len(self._proposals)
        import numpy as np

        query: Vectors = self._embedder.embed([idea])[0]
        if self._matrix is None:
            self._matrix = np.stack(self._vectors)
        return (self._matrix @ query).tolist()  # type: ignore[no-any-return]

    def _described(self, proposal: Proposal, likeness: float, conditions: str) -> a.SimilarProposal:
        scores = self._ledger.scores(proposal.commit)
        metric = self._status.summary(proposal.commit, conditions)
        return a.SimilarProposal(
            commit=proposal.commit,
            author=proposal.author,
            hypothesis=proposal.hypothesis[:300],
            likeness=round(likeness, 2),
            ended=len(scores),
            mean_val_bpb=round(metric.mean, 6) if metric.mean is not None and not metric.reported else None,
        )
