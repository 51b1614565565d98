"""Rendered views: all tabs of one visitor share one until the lab changes, and while one is being made, nobody makes it again."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.sharing import Shared
from autoresearch_mcp.server.page.views import Asked

_KEPT = 64  # rendered views


class Shelf:
    """Keeps views.

    Args:
        lab: what they show.
        beat: returns a number that differs once open pages were told to look again.
        make: renders a view.
    """

    def __init__(self, lab: Lab, beat: Callable[[], int], make: Callable[[str, Asked], Awaitable[bytes]]) -> None:
        self._lab = lab
        self._beat = beat
        self._make = make
        self._views: OrderedDict[Any, tuple[tuple[Any, ...], bytes]] = OrderedDict()  # the newest of each, and of which moment
        self._making: dict[Any, Shared[bytes]] = {}
        self._begun_at: dict[Any, tuple[Any, ...]] = {}  # at which moment what is being made was begun

    async def view(self, view: str, asked: Asked, patience_s: float | None) -> bytes | None:
        """Return a view as it is now; its times are a minute old at most. While one is being made, all who ask wait for the next one.

        Args:
            view: its name.
            asked: by whom, and for what of it.
            patience_s: for which to wait; None for as long as it takes.

        Returns:
            The view, or None where it is still being made after that time. It is then kept for who asks next.

        Raises:
            LabError: the view's own.
        """
        which = (view, asked.name, tuple(sorted(asked.query.items())), asked.visitor)
        moment = self._moment()
        if (known := self._views.get(which)) is not None and known[0] == moment:
            return known[1]
        sharing = self._making.get(which)
        if sharing is None:
            sharing = self._making[which] = Shared(partial(self._made, which, view, asked))
        making = sharing.begun(self._begun_at.get(which) == moment)
        making.add_done_callback(partial(self._done, which))
        done, _ = await asyncio.wait({making}, timeout=patience_s)
        return making.result() if done else None

    def _moment(self) -> tuple[Any, ...]:
        """Return what differs once a view may look otherwise. Where nobody can tell, it always does."""
        return self._lab.stamp() or object(), self._beat(), time.time() // 60

    async def _made(self, which: tuple[Any, ...], view: str, asked: Asked) -> bytes:
        moment = self._begun_at[which] = self._moment()  # before it is read: what changes meanwhile is read again
        html = await self._make(view, asked)
        self._views[which] = moment, html
        self._views.move_to_end(which)
        if len(self._views) > _KEPT:
            self._views.popitem(last=False)
        return html

    def _done(self, which: tuple[Any, ...], making: asyncio.Task[bytes]) -> None:
        if (sharing := self._making.get(which)) is not None and sharing.is_idle:
            del self._making[which]
            self._begun_at.pop(which, None)
        if not making.cancelled():
            making.exception()  # so that one that nobody waits for any more is no error of the server's
