"""Counts the failed inspections of each experiment. Decides when it is inspected again, and when it is given up."""

import time

from autoresearch_mcp.server.retry import Backoff

FAULT_RETRY_S = (1.0, 60.0)  # first and longest wait before an experiment is inspected again
FAULT_LIMIT = 12  # inspections that fail in a row before it is given up: about seven minutes


class Faults:
    """Remembers the failures of each experiment since its last successful inspection."""

    def __init__(self) -> None:
        self._faults: dict[str, tuple[Backoff, float]] = {}  # and when to inspect it again

    def waits(self, id: str) -> bool:
        """Return whether it is too early to inspect an experiment again."""
        return id in self._faults and time.monotonic() < self._faults[id][1]

    def count(self, id: str) -> bool:
        """Count a failed inspection. Returns whether the experiment should be given up."""
        backoff = self._faults[id][0] if id in self._faults else Backoff(FAULT_RETRY_S)
        self._faults[id] = backoff, time.monotonic() + backoff.failed()
        return backoff.failures >= FAULT_LIMIT

    def forget(self, id: str) -> None:
        """Start counting from zero: an inspection succeeded, or the experiment has ended."""
        self._faults.pop(id, None)
