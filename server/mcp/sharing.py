"""One makes what many ask for at once: none gets what was begun before it asked, and no two make the same thing side by side."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Something that takes a while to make, and is out of date as soon as it is begun. For the tasks of one event loop.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._now: asyncio.Task[T] | None = None
        self._has_begun = False  # the one of now: until then it is for all who ask
        self._next: asyncio.Task[T] | None = None  # for all who asked since the one of now began

    def begun(self, is_current: bool = False) -> asyncio.Task[T]:
        """Return what makes it for whoever asks now. It goes on if they leave.

        Args:
            is_current: whether what is being made now is not out of date yet.
        """
        making = self._making
        if making is not None and (is_current or not self._has_begun):
            return making
        if self._next is not None:
            return self._next
        if making is None:
            self._has_begun, self._now = False, asyncio.create_task(self._first())
            return self._now
        self._next = asyncio.create_task(self._after(making))
        return self._next

    async def get(self) -> T:
        """Return what was begun after this call.

        Raises:
            Exception: what making it raised.
        """
        return await asyncio.shield(self.begun())

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being made."""
        return self._making is None and self._next is None

    @property
    def _making(self) -> asyncio.Task[T] | None:
        return self._now if self._now is not None and not self._now.done() else None

    async def _first(self) -> T:
        self._has_begun = True
        return await self._make()

    async def _after(self, before: asyncio.Task[T]) -> T:
        await asyncio.wait({before})
        self._now, self._next = self._next, None
        return await self._make()
