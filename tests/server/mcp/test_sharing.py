"""What many ask for at once is made by one of them, and nobody gets what was begun before it asked."""

import asyncio

import pytest

from autoresearch_mcp.server.mcp.sharing import Shared


class Press:
    """Makes numbers, each when it is let."""

    def __init__(self) -> None:
        self.begun, self.let = 0, asyncio.Semaphore(0)

    async def make(self) -> int:
        self.begun += 1
        number = self.begun
        await self.let.acquire()
        if number == 3:
            raise ValueError("spoilt")
        return number


async def asked(shared: Shared[int], times: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(shared.get()) for _ in range(times)]
    await asyncio.sleep(0)
    return tasks


async def settled(press: Press, shared: Shared[int]) -> None:
    press.let.release()
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_asks_meanwhile_gets_the_next_one_together() -> None:
    async def play() -> None:
        press = Press()
        shared = Shared(press.make)
        first = await asked(shared, 1)
        later = await asked(shared, 3)
        assert press.begun == 1 and not shared.is_idle
        await settled(press, shared)
        latest = await asked(shared, 2)
        assert await first[0] == 1 and press.begun == 2
        await settled(press, shared)
        assert [await each for each in later] == [2, 2, 2]
        await settled(press, shared)
        for each in latest:
            with pytest.raises(ValueError, match="spoilt"):
                await each
        assert shared.is_idle
        again = await asked(shared, 1)
        await settled(press, shared)
        assert await again[0] == 4

    asyncio.run(play())


def test_who_asks_before_it_has_begun_gets_the_same() -> None:
    async def play() -> None:
        press = Press()
        shared = Shared(press.make)
        one, other = shared.begun(), shared.begun()
        await asyncio.sleep(0)
        await settled(press, shared)
        assert one is other and await one == 1 and press.begun == 1

    asyncio.run(play())


def test_who_asks_between_two_makings_gets_the_second() -> None:
    async def play() -> None:
        press, between = Press(), list[asyncio.Task[int]]()
        shared = Shared(press.make)
        first, second = await asked(shared, 1), await asked(shared, 1)
        shared.begun(is_current=True).add_done_callback(lambda _: between.append(shared.begun()))
        await settled(press, shared)
        await settled(press, shared)
        assert press.begun == 2
        assert [await first[0], await second[0], await between[0]] == [1, 2, 2]

    asyncio.run(play())


def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    async def play() -> None:
        press = Press()
        shared = Shared(press.make)
        await asked(shared, 1)
        leaves, stays = await asked(shared, 2)
        leaves.cancel()
        await settled(press, shared)
        await settled(press, shared)
        assert await stays == 2 and leaves.cancelled()

    asyncio.run(play())
