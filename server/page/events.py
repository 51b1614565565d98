"""Server-sent events: one reader of the ledger's change counter for all open pages."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

LOOK_S = 0.5  # between looks at the counter
REST_S = 2.0  # between two events at least
BEAT_S = 5.0  # between events while something is running, whose curves the ledger doesn't hold
_BREATH_S = 20.0  # between comments that keep a quiet connection open


class Pulse:
    """Tells all open pages that the lab changed.

    Args:
        changes: returns a number that differs once the ledger changed.
        runs: returns whether something is running now.
    """

    def __init__(self, changes: Callable[[], int], runs: Callable[[], bool]) -> None:
        self._changes = changes
        self._runs = runs
        self._open = 0
        self._reader: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()
        self.beat = 0

    async def stream(self) -> AsyncIterator[str]:
        """Yield an event at once, and one whenever the lab changed. The reader of the ledger lives as long as anybody listens.

        It ends where the ledger can't be read: the browser then asks again by itself.
        """
        self._open += 1
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        reader = self._reader
        try:
            heard = self.beat
            yield f"retry: 3000\ndata: {heard}\n\n"
            while not reader.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BREATH_S), self._moved:
                        await self._moved.wait_for(lambda: self.beat != heard)  # noqa: B023 it is awaited at once
                last, heard = heard, self.beat  # it may go on while the event is sent
                yield f"data: {heard}\n\n" if heard != last else ": still here\n\n"
        finally:
            self._open -= 1
            if not self._open and self._reader is not None:
                self._reader.cancel()
                self._reader = None

    async def _read(self) -> None:
        known, waited = self._changes(), 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            waited += LOOK_S
            if waited < REST_S:
                continue
            counter = self._changes()
            if counter != known or (waited >= BEAT_S and await asyncio.to_thread(self._runs)):
                known, waited = counter, 0.0
                async with self._moved:
                    self.beat += 1
                    self._moved.notify_all()
