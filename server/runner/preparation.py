"""Makes ready what all trainings share, beside the rounds: cancels, flushes and signals don't wait for a download."""

import asyncio
import contextlib
import logging

from autoresearch_mcp.server.compute.base import Compute, ComputeError
from autoresearch_mcp.server.runner.health import HealthFile
from autoresearch_mcp.server.untrusted import file_names_only

_log = logging.getLogger("autoresearch.runner")


class Preparation:
    """The data of a lab's trainings, prepared when the first experiment waits for it.

    Args:
        compute: the backend that prepares.
        health: where servers read that a preparation is under way.
    """

    def __init__(self, compute: Compute, health: HealthFile) -> None:
        self._compute = compute
        self._health = health
        self._data: str | None = None
        self._under_way: asyncio.Task[str] | None = None

    async def data(self) -> str | None:
        """Return where the data is, or None while it is being prepared. Call it again until there is an answer.

        Raises:
            ComputeError: the data can't be prepared. The next call starts another preparation.
        """
        if self._data is None:
            if self._under_way is None:
                self._under_way = asyncio.create_task(self._compute.prepare())
                await asyncio.sleep(0)  # a backend that has nothing to do is done now
            if not self._under_way.done():
                self._health.preparing(True)
                return None
            preparation, self._under_way = self._under_way, None
            self._health.preparing(False)
            try:
                self._data = preparation.result()
            except ComputeError:
                raise
            except Exception as error:
                _log.error("the data could not be prepared", exc_info=error)
                raise ComputeError(
                    f"The training data could not be prepared: {type(error).__name__}: {file_names_only(str(error))}."
                ) from error
        return self._data

    async def cancel(self) -> None:
        """End a preparation under way: nothing waits for it, or the runner leaves."""
        if self._under_way is not None:
            preparation, self._under_way = self._under_way, None
            preparation.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await preparation
            self._health.preparing(False)
            _log.info("the preparation of the data was cancelled")
