"""Commits by what counts of their replicates, and the noise between replicates: fast in a lab of any size."""

import threading
from collections.abc import Callable
from statistics import median_low

from autoresearch_mcp.server.gate.evidence import Models, exclusion
from autoresearch_mcp.server.gate.noise import Squares
from autoresearch_mcp.server.gate.spread import mean, pooled, sd
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Score
from autoresearch_mcp.server.settings import PromotionSection

_AT_ONCE = 10_000  # rows in memory


class Standing:
    """A commit's replicates that count, under one set of conditions.

    Attributes:
        commit: its full id.
        reported: whether its metrics are reported ones.
    """

    def __init__(self, commit: str, rules: PromotionSection, reported: bool) -> None:
        self.commit = commit
        self.reported = reported
        self._metrics: list[float] = []
        self._steps: list[int] = []
        self._models = Models(rules)
        self._summary: tuple[int, float, float | None] = (0, 0.0, None)  # of so many metrics, their mean and their spread

    def add(self, score: Score) -> None:
        """Take in a replicate, unless its model is there already."""
        if score.metric is not None and self._models.add(score):
            self._metrics.append(score.metric)
            if score.steps:
                self._steps.append(score.steps)

    @property
    def n(self) -> int:
        """How many replicates count."""
        return len(self._metrics)

    @property
    def mean(self) -> float:
        """Mean of their metrics."""
        return self._summarised()[1]

    @property
    def sd(self) -> float | None:
        """Standard deviation of their metrics; None for a single one."""
        return self._summarised()[2]

    @property
    def steps(self) -> int | None:
        """Median of the steps that they report; None where none did."""
        return median_low(self._steps) if self._steps else None

    @property
    def squares(self) -> Squares:
        """The spread of their metrics, for the noise."""
        n, _, spread = self._summarised()
        return (n - 1, (n - 1) * spread**2) if spread is not None else (0, 0.0)

    def _summarised(self) -> tuple[int, float, float | None]:
        if self._summary[0] != len(self._metrics):
            self._summary = len(self._metrics), mean(self._metrics), sd(self._metrics)
        return self._summary


class Standings:
    """All commits of a lab, kept in step with its ledger by reading only what ended since the last call. Thread-safe."""

    def __init__(self, ledger: Ledger, rules: Callable[[], PromotionSection]) -> None:
        """Read nothing yet. `rules` returns by what rules replicates count now; when they change, everything is counted anew."""
        self._ledger = ledger
        self._current_rules = rules
        self._lock = threading.Lock()
        self._rules: PromotionSection | None = None
        self._read_to = 0
        self._by_conditions: dict[str, dict[str, Standing]] = {}
        self._newest: dict[str, str] = {}

    def all(self, conditions: str) -> list[Standing]:
        """Return every commit with a replicate that counts under these conditions."""
        with self._lock:
            return self._candidates(conditions)

    def noise(self, conditions: str) -> float | None:
        """Return the standard deviation between replicates of one commit, pooled over all commits under these conditions.

        It is None where no commit has two replicates.
        """
        with self._lock:
            return pooled([(standing.n, standing.sd) for standing in self._candidates(conditions) if standing.sd is not None])

    def spreads(self, conditions: str, without: str) -> list[Squares]:
        """Return the spread of every commit but one under these conditions, where it has at least two replicates."""
        with self._lock:
            return [standing.squares for standing in self._candidates(conditions) if standing.commit != without and standing.n > 1]

    def newest(self, device: str) -> str:
        """Return the conditions under which a replicate was measured last on this kind of device; empty where none was."""
        with self._lock:
            self._under("")
            return self._newest.get(device, "")

    def _candidates(self, conditions: str) -> list[Standing]:
        """Return the commits that are no measurements."""
        measured = self._ledger.measurements()
        return [standing for commit, standing in self._under(conditions).items() if commit not in measured]

    def _take_in(self, score: Score, rules: PromotionSection) -> None:
        if score.metric is None:
            return
        self._newest[score.device] = score.conditions
        if exclusion(score, rules) is None:
            commits = self._by_conditions.setdefault(score.conditions, {})
            if (standing := commits.get(score.commit)) is None:
                standing = commits[score.commit] = Standing(score.commit, rules, score.val_bpb is None)
            standing.add(score)

    def _under(self, conditions: str) -> dict[str, Standing]:
        rules = self._current_rules()
        if rules != self._rules:
            self._rules, self._read_to, self._by_conditions = rules, 0, {}
        read = _AT_ONCE
        while read == _AT_ONCE:
            batch = self._ledger.finished_after(self._read_to, _AT_ONCE)
            read = len(batch)
            for self._read_to, score in batch:
                self._take_in(score, rules)
        return self._by_conditions.get(conditions, {})
