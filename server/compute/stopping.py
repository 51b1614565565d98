"""The end of what a backend does beside its calls."""

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_S = 10.0  # a cancellation can be lost where what a task awaits ends at the same moment


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended. What they raise is nobody's any more."""
    tasks = list(tasks)
    while going := [task for task in tasks if not task.done()]:
        for task in going:
            task.cancel()
        await asyncio.wait(going, timeout=_AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()
