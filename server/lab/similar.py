"""Earlier proposals that resemble an idea, so that nobody spends a device on it again without knowing.

Hypotheses are compared by their words, where rare words count more, and by their meaning where a local model is installed. An
endpoint is not asked: every server would have to send it every hypothesis of the lab.
"""

import math
import threading
from collections import Counter
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
NEAR_WORDS = 0.5  # of the weight of all words in either text, the share that is in both
NEAR_MEANING = 0.6  # cosine; of unrelated hypotheses it is below 0.3


class SimilarProposals:
    """The lab's proposals in memory, kept in step by reading only what is new. Thread-safe."""

    def __init__(self, ledger: Ledger, embedder: Embedder | None, status: LabStatus) -> None:
        """Read nothing yet. `status` knows under which conditions metrics are compared now: others go into no mean."""
        self._ledger = ledger
        self._status = status
        self._embedder = embedder if embedder is not None and embedder.local else None
        self._lock = threading.Lock()
        self._read_to = 0
        self._proposals: list[Proposal] = []
        self._words: list[frozenset[str]] = []
        self._holders: Counter[str] = Counter()
        self._vectors: list[Any] = []

    def find(self, idea: str, but: str = "", limit: int = 3) -> list[a.SimilarProposal]:
        """Return the proposals that are most like the idea, best first.

        Args:
            idea: a hypothesis or a search text.
            but: a commit to leave out.
            limit: the most proposals to return. There may be none.
        """
        words = frozenset(terms(idea))
        with self._lock:
            self._extend()
            by_words = [self._shared(words, each) for each in self._words]
            by_meaning = self._cosines(idea)
        likeness = [(max(w / NEAR_WORDS, m / NEAR_MEANING), max(w, m), n) for n, (w, m) in enumerate(zip(by_words, by_meaning))]
        best = sorted((each for each in likeness if each[0] >= 1 and self._proposals[each[2]].commit != but), reverse=True)[:limit]
        conditions = self._status.conditions() if best else ""
        return [self._described(self._proposals[n], min(like, 1.0), conditions) for _, like, n in best]

    def _extend(self) -> None:
        fresh = self._ledger.proposals_after(self._read_to, MOST)
        if not fresh:
            return
        self._read_to = fresh[-1][0]
        proposals = [proposal for _, proposal in fresh]
        words = [frozenset(terms(proposal.hypothesis)) for proposal in proposals]
        self._proposals += proposals
        self._words += words
        self._holders.update(word for each in words for word in each)
        if self._embedder is not None:
            try:
                self._vectors += list(self._embedder.embed([proposal.hypothesis for proposal in proposals]))
            except EmbeddingsUnavailable:
                self._embedder = None  # a local model that can't be read won't mend itself

    def _shared(self, ours: frozenset[str], theirs: frozenset[str]) -> float:
        common = ours & theirs
        return self._weight(common) / self._weight(ours | theirs) if common else 0.0

    def _weight(self, words: frozenset[str]) -> float:
        return sum(math.log(1 + (len(self._words) + 1) / (self._holders[word] + 1)) for word in words)

    def _cosines(self, idea: str) -> list[float]:
        if self._embedder is None or not self._proposals:
            return [0.0] * len(self._proposals)
        import numpy as np

        query: Vectors = self._embedder.embed([idea])[0]
        return [float(value) for value in np.stack(self._vectors) @ query]

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
