"""Decides whose statement runs next.

So many run at once that a few endless ones keep nobody waiting. No more do, because each may use memory, and because a call
that waits holds one of the server's threads.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from autoresearch_mcp.server.errors import LabError

AT_ONCE = 12
AT_ONCE_EACH = 4  # of one named caller
WAITING = 16
WAITING_EACH = 8
_WAIT_S = 15.0


class Turns:
    """Thread-safe. Callers are served in the order in which they came, but for those who have `AT_ONCE_EACH` running already."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: list[str] = []
        self._waiting: list[tuple[object, str]] = []

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    @contextmanager
    def turn(self, caller: str) -> Iterator[None]:
        """Wait for a turn, and hold it until the block ends.

        Args:
            caller: who asks; of an empty name nothing is known, and only the limits for all hold.

        Raises:
            LabError: `busy`, where too many wait already, or after 15 s.
        """
        ticket = object(), caller
        with self._changed:
            self._join(ticket)
            try:
                if not self._changed.wait_for(lambda: self._next() is ticket, _WAIT_S):
                    raise _busy()
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            self._running.append(caller)
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(caller)
                self._changed.notify_all()

    def _join(self, ticket: tuple[object, str]) -> None:
        caller = ticket[1]
        same = sum(1 for _, other in self._waiting if other == caller)
        if len(self._waiting) >= WAITING or (caller and same >= WAITING_EACH):
            raise _busy()
        self._waiting.append(ticket)

    def _next(self) -> tuple[object, str] | None:
        if len(self._running) >= AT_ONCE:
            return None
        return next((ticket for ticket in self._waiting if not ticket[1] or self._running.count(ticket[1]) < AT_ONCE_EACH), None)


def _busy() -> LabError:
    return LabError("This SQL was not run: too many statements wait already. Try again in a few seconds, one statement at a time.", "busy")
