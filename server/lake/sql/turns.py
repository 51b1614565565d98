"""Decides whose statement goes on, and where: none knows beforehand how long it will take.

- Every statement begins in the quick lane. What is not done after `QUICK_S` leaves it, so a line of endless statements moves on
  all the time, and a quick one passes it whoever asks. Those are seconds of a processor: a busy machine makes no statement long.
- Long ones go on in the slow lane, a few at once and a few for each caller, and the rest in line.

More don't run at once because each may use memory, and no more wait because a call that waits holds one of the server's threads.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from autoresearch_mcp.server.errors import LabError

QUICK_S = 0.2
QUICK_MOST_S = 2.0  # by the clock on the wall
QUICK = 4
QUICK_WAITING = 24
SLOW = 8
SLOW_EACH = 4  # of one named caller
SLOW_WAITING = 16
SLOW_WAITING_EACH = 8
_WAIT_S = 15.0


class Lane:
    """A place for so many statements at once. Callers are served in the order in which they came, but for those who have `each` in it. Thread-safe.

    Args:
        room: how many statements.
        waiting: how many may wait for a place.
        each: how many of one named caller.
        waiting_each: how many of one named caller may wait.
    """

    def __init__(self, room: int, waiting: int, each: int | None = None, waiting_each: int | None = None) -> None:
        self._room, self._most_waiting = room, waiting
        self._each, self._waiting_each = each or room, waiting_each or waiting
        self._changed = threading.Condition()
        self._running: list[str] = []
        self._waiting: list[tuple[object, str]] = []

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    def enter(self, caller: str) -> None:
        """Wait for a place and take it.

        Raises:
            LabError: `busy`, where too many wait already, or after 15 s.
        """
        ticket = object(), caller
        with self._changed:
            same = sum(1 for _, other in self._waiting if other == caller)
            if len(self._waiting) >= self._most_waiting or (caller and same >= self._waiting_each):
                raise busy()
            self._waiting.append(ticket)
            try:
                if not self._changed.wait_for(lambda: self._next() is ticket, _WAIT_S):
                    raise busy()
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            self._running.append(caller)

    def enter_now(self, caller: str) -> bool:
        """Take a place if one is free and nobody waits for it.

        Returns:
            Whether it was.
        """
        with self._changed:
            if self._waiting or not self._has_room(caller):
                return False
            self._running.append(caller)
            return True

    def leave(self, caller: str) -> None:
        """Give the place back."""
        with self._changed:
            self._running.remove(caller)
            self._changed.notify_all()

    def _has_room(self, caller: str) -> bool:
        return len(self._running) < self._room and (not caller or self._running.count(caller) < self._each)

    def _next(self) -> tuple[object, str] | None:
        return next((ticket for ticket in self._waiting if self._has_room(ticket[1])), None)


class Turn:
    """One statement's place, first in the quick lane."""

    def __init__(self, caller: str, quick: Lane, slow: Lane) -> None:
        self._caller, self._slow = caller, slow
        quick.enter(caller)
        self._lane: Lane | None = quick

    def slow_down_now(self) -> bool:
        """Move to the slow lane if it has a place.

        Returns:
            Whether the statement is in the slow lane; otherwise it is where it was.
        """
        if self._lane is self._slow:
            return True
        if not self._slow.enter_now(self._caller):
            return False
        self.leave()
        self._lane = self._slow
        return True

    def slow_down(self) -> None:
        """Leave the quick lane, and wait for a place in the slow one.

        Raises:
            LabError: `busy`, where too many wait already, or after 15 s.
        """
        if not self.slow_down_now():
            self.leave()
            self._slow.enter(self._caller)
            self._lane = self._slow

    def leave(self) -> None:
        """Give the place back."""
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.leave(self._caller)


class Turns:
    """The two lanes, and who copies rows for long: one statement at a time. Thread-safe."""

    def __init__(self) -> None:
        self.quick = Lane(QUICK, QUICK_WAITING)
        self.slow = Lane(SLOW, SLOW_WAITING, SLOW_EACH, SLOW_WAITING_EACH)
        self._copying = threading.Lock()

    @contextmanager
    def turn(self, caller: str) -> Iterator[Turn]:
        """Wait for a place in the quick lane, and hold it, or the one that the turn moves to, until the block ends.

        Args:
            caller: who asks; of an empty name nothing is known, and only the limits for all hold.

        Raises:
            LabError: `busy`, where too many wait already, or after 15 s.
        """
        turn = Turn(caller, self.quick, self.slow)
        try:
            yield turn
        finally:
            turn.leave()

    def alone(self, copy: Callable[[], bool]) -> bool:
        """Copy rows while no other statement of the slow lane does: several at once would all end late.

        Raises:
            LabError: `busy`, after 15 s.
        """
        if not self._copying.acquire(timeout=_WAIT_S):
            raise busy()
        try:
            return copy()
        finally:
            self._copying.release()


def busy() -> LabError:
    """Make the error for a statement that finds no place."""
    return LabError("This SQL was not run: too many statements wait already. Try again in a few seconds, one statement at a time.", "busy")
