"""Retry with backoff: the pause doubles with each failure in a row, from the first to the longest.

tenacity drives the loops. It is imported at the first retry (25 ms), so that a server that meets no failure starts without it.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tenacity import RetryCallState

Pauses = tuple[float, float]
"""The first and the longest pause, in seconds."""
When = Callable[[BaseException], bool]
"""Whether another try may help after this error."""
Notify = Callable[[BaseException, float], None]
"""Takes the error and the seconds until the next try, before the pause."""

_T = TypeVar("_T")


def pause_s(pauses: Pauses, failures: int) -> float:
    """Return the pause in seconds after so many failures in a row; the first failure is number 1."""
    first, longest = pauses
    return float(min(first * 2 ** min(failures - 1, 64), longest))


class Backoff:
    """Count the failures in a row of a loop that does more than repeat one call."""

    def __init__(self, pauses: Pauses) -> None:
        self._pauses = pauses
        self.failures = 0

    def failed(self) -> float:
        """Count a failure and return the pause before the next try, in seconds."""
        self.failures += 1
        return pause_s(self._pauses, self.failures)

    def succeeded(self) -> None:
        """Start again from the first pause."""
        self.failures = 0


async def retry_async(
    call: Callable[[], Awaitable[_T]], when: When, pauses: Pauses, notify: Notify | None = None, wake: asyncio.Event | None = None
) -> _T:
    """Repeat a call until it succeeds, or fails with an error that another try can't help.

    Args:
        call: Runs once a try.
        when: Whether to try again after an error.
        pauses: The first and the longest pause.
        notify: Called before each pause, to log it.
        wake: Ends a pause early when it is set; the next try then comes at once.
    """
    from tenacity import AsyncRetrying, retry_if_exception

    async def attempt() -> _T:
        return await call()

    async def sleep(seconds: float) -> None:
        if wake is None:
            await asyncio.sleep(seconds)
            return
        await woken(wake, seconds)

    retrying = AsyncRetrying(
        sleep=sleep,
        retry=retry_if_exception(when),
        wait=lambda state: pause_s(pauses, state.attempt_number),
        before_sleep=lambda state: notify(*_failure(state)) if notify is not None else None,
        reraise=True,
    )
    return await retrying(attempt)


async def woken(wake: asyncio.Event, within_s: float) -> bool:
    """Sleep until an event is set, or for so long; return whether it was set.

    `asyncio.wait_for` may lose a cancellation that comes with the event, in Python 3.11.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await wake.wait()
    return wake.is_set()


def retry_within(call: Callable[[], _T], when: When, pauses: Pauses, within_s: float, give_up: threading.Event) -> _T:
    """Repeat a call from a thread, with jitter, until it succeeds or its time is over.

    Each pause is drawn between zero and twice its length, so that many clients don't come back all at once.

    Args:
        call: Runs once a try.
        when: Whether to try again after an error.
        pauses: The first and the longest pause.
        within_s: No try begins later than this many seconds after the first.
        give_up: Raises the last error at once when it is set during a pause.
    """
    from tenacity import Retrying, retry_if_exception, stop_before_delay

    failures: list[BaseException] = []

    def sleep(seconds: float) -> None:
        if give_up.wait(seconds):
            raise failures[-1]

    retrying = Retrying(
        sleep=sleep,
        retry=retry_if_exception(when),
        wait=lambda state: random.uniform(0, 2 * pause_s(pauses, state.attempt_number)),  # noqa: S311 - not a secret
        stop=stop_before_delay(within_s),
        before_sleep=lambda state: failures.append(_failure(state)[0]),
        reraise=True,
    )
    return retrying(call)


def _failure(state: "RetryCallState") -> tuple[BaseException, float]:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error, state.upcoming_sleep
