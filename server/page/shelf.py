"""What was drawn: all tabs of one visitor share a view until the lab changes, and while one is being drawn, nobody draws it again."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from typing import Any

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.sharing import Shared

_KEPT = 64  # views and charts
Moment = tuple[Any, ...]


class Shelf:
    """Keeps views and charts.

    Args:
        lab: what they show.
        beat: returns a number that differs once open pages were told to look again.
    """

    def __init__(self, lab: Lab, beat: Callable[[], int]) -> None:
        self._lab = lab
        self._beat = beat
        self._kept: OrderedDict[Hashable, tuple[Moment, bytes]] = OrderedDict()  # the newest of each, and of which moment
        self._making: dict[Hashable, Shared[bytes]] = {}
        self._begun_at: dict[Hashable, Moment] = {}  # at which moment what is being made was begun

    async def get(self, which: Hashable, make: Callable[[], Awaitable[bytes]], patience_s: float | None = None) -> bytes:
        """Return something as it is now; its times are a minute old at most. While it is being made, all who ask wait for the next one.

        Args:
            which: tells it apart from others.
            make: makes it.
            patience_s: for which to wait; None for as long as it takes.

        Raises:
            TimeoutError: it is still being made. It is then kept for who asks next.
            LabError: from making it.
        """
        moment = self._moment()
        if (known := self._kept.get(which)) is not None and known[0] == moment:
            return known[1]
        sharing = self._making.get(which)
        if sharing is None:
            sharing = self._making[which] = Shared(partial(self._made, which, make))
        making = sharing.begun(self._begun_at.get(which) == moment)
        making.add_done_callback(partial(self._done, which))
        done, _ = await asyncio.wait({making}, timeout=patience_s)
        if not done:
            raise TimeoutError
        return making.result()

    def _moment(self) -> Moment:
        """Return what differs once it may look otherwise. Where nobody can tell, it always does."""
        return self._lab.stamp() or object(), self._beat(), time.time() // 60

    async def _made(self, which: Hashable, make: Callable[[], Awaitable[bytes]]) -> bytes:
        moment = self._begun_at[which] = self._moment()  # before it is read: what changes meanwhile is read again
        made = await make()
        self._kept[which] = moment, made
        self._kept.move_to_end(which)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return made

    def _done(self, which: Hashable, making: asyncio.Task[bytes]) -> None:
        if (sharing := self._making.get(which)) is not None and sharing.is_idle:
            del self._making[which]
            self._begun_at.pop(which, None)
        if not making.cancelled():
            making.exception()  # so that one that nobody waits for any more is no error of the server's
