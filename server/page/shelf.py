"""Rendered views: all tabs of one visitor share one until the lab changes, and while one is being made, nobody makes it again."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.page.views import Asked

_KEPT = 64  # rendered views


class Shelf:
    """Keeps views.

    Args:
        lab: what they show.
        beat: returns a number that differs once open pages were told to look again.
        make: renders a view; it blocks.
        limiter: of the threads in which that is done.
    """

    def __init__(self, lab: Lab, beat: Callable[[], int], make: Callable[[str, Asked], bytes], limiter: anyio.CapacityLimiter) -> None:
        self._lab = lab
        self._beat = beat
        self._make = make
        self._limiter = limiter
        self._views: OrderedDict[Any, bytes] = OrderedDict()
        self._making: dict[Any, asyncio.Task[bytes]] = {}

    async def view(self, view: str, asked: Asked, patience_s: float | None) -> bytes | None:
        """Return a view as it is now; its times are a minute old at most.

        Args:
            view: its name.
            asked: by whom, and for what of it.
            patience_s: for which to wait; None for as long as it takes.

        Returns:
            The view, or None where it is still being made after that time. It is then kept for who asks next.

        Raises:
            LabError: the view's own.
        """
        stamp = self._lab.stamp()
        key = (view, asked.name, tuple(sorted(asked.query.items())), asked.visitor, stamp, self._beat(), time.time() // 60)
        if stamp is not None and (known := self._views.get(key)) is not None:
            return known
        making = self._making.get(key) if stamp is not None else None
        if making is None:
            making = asyncio.create_task(self._made(key, view, asked))
            if stamp is not None:
                self._making[key] = making
            making.add_done_callback(partial(self._done, key))
        done, _ = await asyncio.wait({making}, timeout=patience_s)
        return making.result() if done else None

    async def _made(self, key: Any, view: str, asked: Asked) -> bytes:
        html = self._views[key] = await anyio.to_thread.run_sync(self._make, view, asked, limiter=self._limiter)
        while len(self._views) > _KEPT:
            self._views.popitem(last=False)
        return html

    def _done(self, key: Any, making: asyncio.Task[bytes]) -> None:
        self._making.pop(key, None)
        if not making.cancelled():
            making.exception()  # so that one that nobody waits for any more is no error of the server's
