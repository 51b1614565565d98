"""Turns: one use case computes at a time, so that many who ask at once are answered one after the other and not all late.

Python gives the interpreter away with every row that SQLite is asked for. Two threads that read side by side take it from each other for
each of them, and both need many times as long. So one waits for the other, unless that one takes long: mostly it waits for a disk itself then.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.to_thread

R = TypeVar("R")

PATIENCE_S = 0.08  # for which the others wait


class Turns:
    """Lets one after the other, in the order in which they ask. For the tasks of one event loop.

    Args:
        patience_s: who has its turn for longer goes on beside the next one.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._line = deque[asyncio.Future[None]]()
        self._whose: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # A turn is never spent waiting for a thread: who may wait for one is limited before
        self._threads = anyio.CapacityLimiter(math.inf)

    async def run(self, use_case: Callable[[], R], limiter: anyio.CapacityLimiter) -> R:
        """Run a use case in a thread when its turn comes, and return its answer.

        Args:
            use_case: it blocks.
            limiter: of those who wait for a turn or have one.
        """
        async with limiter, self.taken():
            return await anyio.to_thread.run_sync(use_case, limiter=self._threads)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the block ends or takes too long."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(mine)
        if self._whose is None:
            self._go_on()
        try:
            await mine
            yield
        finally:
            self._end(mine)

    def _end(self, turn: asyncio.Future[None]) -> None:
        if turn is self._whose:
            assert self._timer is not None
            self._timer.cancel()
            self._go_on()

    def _go_on(self) -> None:
        """Give the turn to whoever has waited longest and still does."""
        self._whose = None
        while self._line and self._whose is None:
            first = self._line.popleft()
            if not first.cancelled():
                first.set_result(None)
                self._whose, self._timer = first, first.get_loop().call_later(self.patience_s, self._end, first)
