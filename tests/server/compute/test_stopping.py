"""What a backend does beside its calls ends when it is told to, also where a cancellation is lost."""

import asyncio

import pytest

from autoresearch_mcp.server.compute import stopping
from autoresearch_mcp.server.compute.stopping import stop
from autoresearch_mcp.server.retry import woken


def test_tasks_end_though_one_loses_its_first_cancellation_and_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_AGAIN_S", 0.01)

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("while it ended")

    async def play() -> list[bool]:
        tasks = [asyncio.create_task(each) for each in (deaf(), failing(), asyncio.sleep(0))]
        await asyncio.sleep(0.001)
        await stop(tasks)
        await stop([])
        return [task.cancelled() for task in tasks]

    assert asyncio.run(play()) == [True, False, False]


def test_a_cancellation_that_comes_with_the_event_is_not_lost() -> None:
    async def play() -> bool:
        wake = asyncio.Event()

        async def go_on() -> None:
            while True:
                wake.clear()
                await woken(wake, 60.0)

        task = asyncio.create_task(go_on())
        await asyncio.sleep(0.001)
        wake.set()
        task.cancel()
        await asyncio.wait([task], timeout=5.0)
        return task.cancelled()

    assert asyncio.run(play())


def test_an_event_ends_a_sleep_and_time_does() -> None:
    async def play() -> tuple[bool, bool]:
        wake = asyncio.Event()
        late = await woken(wake, 0.001)
        wake.set()
        return late, await woken(wake, 60.0)

    assert asyncio.run(play()) == (False, True)
