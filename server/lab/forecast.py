"""When what is open will have ended: an estimate by the queue's order, and by what trainings like it took lately."""

import heapq
import operator
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.runner.order import spacing
from autoresearch_mcp.server.settings import Settings

FRESH_S = 1.0  # seconds for which a forecast holds, as long as nothing else changes


@dataclass(frozen=True)
class Forecast:
    """An estimate. Until three trainings have finished, there are no seconds.

    Attributes:
        positions: place in the queue of what is queued, from 1.
        seconds: until each open experiment has ended, the champion's replicates that come between included.
        each_s: what one training takes.
        slots: trainings that run at once.
    """

    positions: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    each_s: float | None = None
    slots: int = 1

    @property
    def empty_s(self) -> float | None:
        """Seconds until the queue is empty and nothing runs; None where that isn't known."""
        return max(self.seconds.values(), default=0.0) if self.each_s is not None else None

    def last_s(self, ids: Collection[str]) -> float | None:
        """Return the seconds until all of these have ended; None where that isn't known, or all have ended."""
        return max((self.seconds[id] for id in ids if id in self.seconds), default=None)

    def in_words(self, ids: Collection[str] = ()) -> str:
        """Say when these end, and when the queue is empty.

        Args:
            ids: whose end is told; those that have ended don't matter.
        """
        if self.each_s is None:
            return "How long that takes isn't known before three trainings have finished."
        places = [self.positions[id] for id in ids if id in self.positions]
        place = f", place {min(places)} of {len(self.positions)} in the queue" if places else ""
        last = self.last_s(ids)
        own = f"Done in about {last:.0f} s{place}; the" if last is not None else "The"
        return f"{own} queue is empty in about {self.empty_s:.0f} s ({self.each_s:.0f} s each on {self.slots} {'slot' if self.slots == 1 else 'slots'})."


@dataclass(frozen=True)
class _Made:
    """A forecast, and what it was made of."""

    open: Sequence[Experiment]
    queued: Sequence[Experiment]
    basis: object
    at: float
    forecast: Forecast


class Forecaster:
    """Makes forecasts. Thread-safe; what the ledger says is read again only after a change."""

    def __init__(self, ledger: Ledger, champion: Callable[[], str]) -> None:
        """Read nothing yet. `champion` returns the champion of now."""
        self._ledger = ledger
        self._champion = champion
        self._known: tuple[object, float | None, int] = (None, None, 0)
        self._last: _Made | None = None

    def forecast(self, settings: Settings, open_: Sequence[Experiment]) -> Forecast:
        """Return when each of these will have ended.

        Args:
            settings: of now.
            open_: all experiments that have not ended, the oldest first.

        Raises:
            LabError: the ledger's.
        """
        champion, now, last = self._champion(), time.time(), self._last
        each, m = self._basis(settings, champion)
        basis = (each, m, champion, settings.slots)
        is_same = last is not None and len(last.open) == len(open_) and all(map(operator.is_, last.open, open_))
        if last is not None and is_same and last.basis == basis and now - last.at < FRESH_S:
            return last.forecast
        queued = last.queued if last is not None and is_same else _in_order([e for e in open_ if e.state == "queued"])
        positions = {e.id: place for place, e in enumerate(queued, 1)}
        seconds = _seconds(open_, queued, champion, each, m, settings.slots, now) if each is not None else {}
        self._last = _Made(open_, queued, basis, now, Forecast(positions, seconds, each, settings.slots))
        return self._last.forecast

    def typical_s(self, settings: Settings) -> float | None:
        """Return the seconds that a training takes; None until three have finished.

        Raises:
            LabError: the ledger's.
        """
        return self._basis(settings, self._champion())[0]

    def _basis(self, settings: Settings, champion: str) -> tuple[float | None, int]:
        """Return what a training takes, and how many replicates of the champion were started."""
        key, launch = (self._ledger.changes(), champion, settings), settings.launch()
        if self._known[0] != key:
            each = self._ledger.typical_s(launch, settings.reference)
            self._known = key, each, len(self._ledger.champion_replicates(champion, launch)) if each is not None else 0
        return self._known[1:]


def _seconds(
    open_: Sequence[Experiment], queued: Sequence[Experiment], champion: str, each: float, m: int, slots: int, now: float
) -> dict[str, float]:
    """Return when each open experiment will have ended, where a training takes `each` seconds and the champion has had `m`."""
    seconds = {e.id: max(0.0, each - (now - e.started_at)) for e in open_ if e.state != "queued" and e.started_at is not None}
    free = [*seconds.values(), *[0.0] * max(0, slots - len(seconds))]
    heapq.heapify(free)
    since_champion = 0
    for e in queued:
        if e.commit != champion and since_champion >= spacing(m) - 1:  # the lab trains one of the champion first
            heapq.heapreplace(free, free[0] + each)
            m, since_champion = m + 1, 0
        since_champion += 1
        seconds[e.id] = free[0] + each
        heapq.heapreplace(free, seconds[e.id])
    return seconds


def _in_order(queued: Sequence[Experiment]) -> list[Experiment]:
    """Return what is queued about as the runner takes it (see `runner.order`): authors take turns, and so do the commits of each."""
    of_commit = _turns(queued, lambda e: (e.author, e.commit))
    by_commit = sorted(queued, key=lambda e: (of_commit[e.id], e.created_at, e.id))
    of_author = _turns(by_commit, lambda e: (e.author,))
    return sorted(by_commit, key=lambda e: (of_author[e.id], e.created_at, e.id))


def _turns(queued: Sequence[Experiment], group: Callable[[Experiment], tuple[str, ...]]) -> dict[str, int]:
    """Return which turn of its group each has."""
    turns = Counter[tuple[str, ...]]()
    turn = {}
    for e in queued:
        turn[e.id] = turns[group(e)]
        turns[group(e)] += 1
    return turn
