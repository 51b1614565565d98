"""Retry with backoff: what is repeated, how long the pauses are, and what ends them."""

import asyncio
import subprocess
import sys
import threading

import anyio
import pytest

from autoresearch_mcp.server.retry import Backoff, pause_s, retry_async, retry_within

PAUSES = (0.01, 0.03)


class Away(Exception):
    """Passes."""


def is_away(error: BaseException) -> bool:
    return isinstance(error, Away)


def failing(*errors: Exception | None) -> list[Exception | None]:
    return [*errors, None]


def test_pauses_double_up_to_the_longest_and_start_again_after_a_success() -> None:
    assert [pause_s((1.0, 30.0), n) for n in (1, 2, 3, 5, 6, 7, 10_000)] == [1, 2, 4, 16, 30, 30, 30]
    backoff = Backoff((1.0, 3.0))
    assert [backoff.failed() for _ in range(3)] == [1, 2, 3]
    backoff.succeeded()
    assert backoff.failed() == 1


@pytest.mark.anyio
async def test_an_asynchronous_call_is_repeated_until_it_succeeds_and_each_pause_is_announced() -> None:
    outcomes, announced = failing(Away("one"), Away("two"), Away("three")), list[tuple[str, float]]()

    async def call() -> str:
        if (error := outcomes.pop(0)) is not None:
            raise error
        return "done"

    assert await retry_async(call, is_away, PAUSES, lambda error, pause: announced.append((str(error), pause))) == "done"
    assert announced == [("one", 0.01), ("two", 0.02), ("three", 0.03)]


@pytest.mark.anyio
async def test_an_error_that_no_try_can_help_ends_it_with_that_error() -> None:
    outcomes = failing(Away("one"), KeyError("why"))

    async def call() -> None:
        if (error := outcomes.pop(0)) is not None:
            raise error

    with pytest.raises(KeyError, match="why"):
        await retry_async(call, is_away, PAUSES)
    assert outcomes == [None]


@pytest.mark.anyio
async def test_a_pause_ends_when_it_is_woken_and_when_it_is_cancelled() -> None:
    wake, tries = asyncio.Event(), 0

    async def call() -> None:
        nonlocal tries
        tries += 1
        if not wake.is_set():
            raise Away

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retry_async, call, is_away, (3600.0, 3600.0), lambda *_: wake.set(), wake)
        assert tries == 2
        wake.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(retry_async, call, is_away, (3600.0, 3600.0), lambda *_: tasks.cancel_scope.cancel())
    assert tries == 3


def test_a_call_with_a_deadline_raises_its_own_error_when_no_time_is_left_for_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    now, tries = 100.0, list[float]()
    monkeypatch.setattr("time.monotonic", lambda: now)

    class Pause(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0.0
            return False

    def call() -> None:
        tries.append(now)
        raise Away(len(tries))

    with pytest.raises(Away) as raised:
        retry_within(call, is_away, PAUSES, 0.2, Pause())
    assert len(tries) > 1 and raised.value.args == (len(tries),) and 0 < tries[-1] - tries[0] < 0.2


def test_pauses_of_a_call_with_a_deadline_are_drawn_up_to_twice_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, outcomes = list[tuple[float, float]](), failing(Away(), Away(), Away())
    monkeypatch.setattr("random.uniform", lambda low, high: drawn.append((low, high)) or 0.0)

    def call() -> str:
        if (error := outcomes.pop(0)) is not None:
            raise error
        return "done"

    assert retry_within(call, is_away, (1.0, 3.0), 60.0, threading.Event()) == "done"
    assert drawn == [(0, 2.0), (0, 4.0), (0, 6.0)]


def test_a_call_that_waits_gives_up_at_once_when_it_is_told_to() -> None:
    give_up = threading.Event()

    def call() -> None:
        give_up.set()
        raise Away("last")

    with pytest.raises(Away, match="last"):
        retry_within(call, is_away, (1e6, 1e6), 1e9, give_up)


def test_importing_it_does_not_import_tenacity() -> None:
    code = "import sys, autoresearch_mcp.server.retry; sys.exit('tenacity' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
