"""Counts looks at an experiment that failed: when it is looked at again, and when it is given up."""

import time

from autoresearch_mcp.server.retry import Backoff

FAULT_RETRY_S = (1.0, 60.0)  # first and longest wait before an experiment is looked at again
FAULT_LIMIT = 12  # looks in a row that may fail: about seven minutes


class Faults:
    """What went wrong with each experiment since it was last looked at with success."""

    def __init__(self) -> None:
        self._faults: dict[str, tuple[Backoff, float]] = {}  # and when to look again

    def waits(self, id: str) -> bool:
        """Return whether it is too early to look at an experiment again."""
        return id in self._faults and time.monotonic() < self._faults[id][1]

    def count(self, id: str) -> bool:
        """Count a look that failed. Returns whether the experiment should be given up."""
        backoff = self._faults[id][0] if id in self._faults else Backoff(FAULT_RETRY_S)
        self._faults[id] = backoff, time.monotonic() + backoff.failed()
        return backoff.failures >= FAULT_LIMIT

    def forget(self, id: str) -> None:
        """Start counting from zero: the experiment was looked at with success, or has ended."""
        self._faults.pop(id, None)
