"""One look at the ledger for all who wait for experiments, ten times a second at most: a hundred of them cost little more than one."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio

POLL_S = 0.1  # between readings of the ledger's change counter
LOOKS = 200  # in a second, of all together whom any change may concern: each reads again then, where many wait less often


class Waiting(Protocol):
    """A call that waits.

    Attributes:
        counter: of the ledger's changes, from before what is waited for was read.
        watched: the experiments that are waited for, with the state of each as it was read; None where any change may matter.
    """

    counter: int | None
    watched: dict[str, str] | None


class Lookout:
    """Tells calls that wait when what they wait for may have changed. For the tasks of one event loop.

    Args:
        changes: returns a number that differs once the ledger changed.
        states: returns the states of experiments, by one look-up in a thread.
    """

    def __init__(self, changes: Callable[[], int], states: Callable[[Sequence[str]], Awaitable[dict[str, str]]]) -> None:
        self._changes = changes
        self._states = states
        self._waiting: dict[anyio.Event, tuple[Waiting, float]] = {}  # and since when
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_looking(self) -> bool:
        """Return whether the ledger is looked at."""
        return self._looking is not None and not self._looking.done()

    async def moved(self, waiting: Waiting, until: float) -> None:
        """Sleep until what is waited for may have changed, or until a time of the event loop's clock."""
        moved = anyio.Event()
        self._waiting[moved] = waiting, anyio.current_time()
        if not self.is_looking:
            self._looking = asyncio.create_task(self._look(), context=contextvars.Context())  # it is no part of the first one's call
        try:
            with anyio.CancelScope(deadline=until):
                await moved.wait()
        finally:
            del self._waiting[moved]

    async def _look(self) -> None:
        """Look as long as anybody waits. In a busy lab most changes are others'."""
        while self._waiting:
            await asyncio.sleep(POLL_S)
            try:
                counter = self._changes()
                behind = [(moved, each, since) for moved, (each, since) in self._waiting.items() if each.counter != counter]
                ids = {id for _, each, _ in behind for id in each.watched or ()}
                states = await self._states([*ids]) if ids else {}
            except Exception:  # who reads again is told
                for moved in self._waiting:
                    moved.set()
                continue
            rested = anyio.current_time() - sum(each.watched is None for _, each, _ in behind) / LOOKS
            for moved, each, since in behind:
                if each.watched is None:
                    if since <= rested:
                        moved.set()
                elif any(states.get(id, state) != state for id, state in each.watched.items()):
                    moved.set()
                else:
                    each.counter = counter
