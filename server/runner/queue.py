"""The experiments that have not ended, as the runner's loop sees them: read from the ledger only after it changed."""

from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment


class QueueView:
    """Keeps what the ledger says of open experiments. A round costs the same however long the queue is."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._version: int | None = None
        self._active: list[Experiment] = []
        self._queued: list[Experiment] = []
        self._limit = 0
        self._paused = False
        self._turn = 0

    def active(self) -> list[Experiment]:
        """Return the experiments that have left the queue, oldest first.

        Raises:
            LabError: the ledger can't be read.
        """
        self._refresh()
        return self._active

    def next_active(self, count: int) -> list[Experiment]:
        """Return as many of the active experiments, in turn: with each call those that come after the last ones.

        Args:
            count: how many; all, where there are no more.

        Raises:
            LabError: the ledger can't be read.
        """
        active = self.active()
        if count >= len(active):
            return active
        first = self._turn % len(active)
        self._turn = first + count
        return (active[first:] + active[:first])[:count]

    def queued(self, limit: int) -> list[Experiment]:
        """Return the first experiments of the queue.

        Args:
            limit: the most that are returned.

        Raises:
            LabError: the ledger can't be read.
        """
        self._refresh()
        if limit > self._limit:
            self._queued, self._limit = self._ledger.open_experiments("queued", limit=limit), limit
        return self._queued[:limit]

    def paused(self) -> bool:
        """Return whether the lab's owner lets nothing start.

        Raises:
            LabError: the ledger can't be read.
        """
        self._refresh()
        return self._paused

    def any(self) -> bool:
        """Return whether there is any.

        Raises:
            LabError: the ledger can't be read.
        """
        return bool(self.active() or self.queued(1))

    def _refresh(self) -> None:
        version = self._ledger.changes()
        if version != self._version:
            self._active = self._ledger.open_experiments(*ACTIVE_STATES)
            self._paused = self._ledger.paused_at() is not None
            self._limit, self._version = 0, version
