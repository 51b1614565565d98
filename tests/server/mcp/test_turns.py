"""One computes at a time, in the order in which they asked, and nobody waits for one that takes long, ends badly or leaves."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import anyio
import anyio.to_thread
import pytest

from autoresearch_mcp.server.mcp.bridge import Bridge
from autoresearch_mcp.server.mcp.turns import Turns
from tests.server.measured import MeasuredLab

LONG_S = 60.0  # patience that no test uses up


class Stage:
    """Tasks that each take a turn, note it, and keep it until they are let go."""

    def __init__(self, patience_s: float = LONG_S) -> None:
        self.turns = Turns(patience_s)
        self.begun: list[str] = []
        self.has_begun: dict[str, asyncio.Event] = {}
        self.ends: dict[str, asyncio.Future[None]] = {}

    def ask(self, name: str) -> asyncio.Task[None]:
        self.ends[name], self.has_begun[name] = asyncio.get_running_loop().create_future(), asyncio.Event()
        return asyncio.create_task(self._play(name))

    async def _play(self, name: str) -> None:
        async with self.turns.taken():
            self.begun.append(name)
            self.has_begun[name].set()
            await self.ends[name]

    async def let(self, name: str) -> None:
        self.ends[name].set_result(None)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def played(play: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await play()

    asyncio.run(bounded())


def test_each_has_its_turn_in_the_order_in_which_they_asked() -> None:
    async def play() -> None:
        stage = Stage()
        tasks = [stage.ask(name) for name in "abc"]
        await settle()
        assert stage.begun == ["a"]
        await stage.let("a")
        assert stage.begun == ["a", "b"]
        await stage.let("b")
        await stage.let("c")
        await asyncio.gather(*tasks)
        assert stage.begun == ["a", "b", "c"]

    played(play)


def test_nobody_waits_for_one_that_takes_long() -> None:
    async def play() -> None:
        stage = Stage(patience_s=0.0)
        slow, other = stage.ask("slow"), stage.ask("other")
        await stage.has_begun["other"].wait()
        third = stage.ask("third")
        await stage.let("slow")
        await slow
        await stage.let("other")
        await stage.let("third")
        await asyncio.gather(other, third)
        assert stage.begun == ["slow", "other", "third"]

    played(play)


def test_who_goes_on_beside_another_ends_no_turn_but_its_own() -> None:
    async def play() -> None:
        stage = Stage()
        slow = stage.ask("slow")
        await settle()
        whose = stage.turns._whose
        assert whose is not None
        stage.turns._end(whose)  # its patience is over
        second, third = stage.ask("second"), stage.ask("third")
        await settle()
        await stage.let("slow")
        assert stage.begun == ["slow", "second"], "the end of one that was overtaken is no end of the second's turn"
        await stage.let("second")
        await stage.let("third")
        await asyncio.gather(slow, second, third)

    played(play)


@pytest.mark.parametrize("waits_for", ["its turn", "its end"])
def test_who_leaves_keeps_nobody(waits_for: str) -> None:
    async def play() -> None:
        stage = Stage()
        first, second, third = stage.ask("first"), stage.ask("second"), stage.ask("third")
        await settle()
        leaving = second if waits_for == "its turn" else first
        leaving.cancel()
        await settle()
        if waits_for == "its turn":
            await stage.let("first")
            assert stage.begun == ["first", "third"]
        else:
            await stage.let("second")
            assert stage.begun == ["first", "second", "third"]
        await stage.let("third")
        results = await asyncio.gather(first, second, third, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in results].count(True) == 1

    played(play)


def test_who_leaves_just_as_its_turn_comes_passes_it_on() -> None:
    async def play() -> None:
        stage = Stage()
        first, second, third = stage.ask("first"), stage.ask("second"), stage.ask("third")
        await settle()
        stage.ends["first"].set_result(None)
        await asyncio.sleep(0)
        assert len(stage.turns._line) == 1 and stage.begun == ["first"], "its turn was given to it, and it has not gone on yet"
        second.cancel()
        await settle()
        assert stage.begun == ["first", "third"]
        await stage.let("third")
        await asyncio.gather(first, second, third, return_exceptions=True)

    played(play)


def test_an_error_ends_a_turn() -> None:
    async def play() -> None:
        turns = Turns(LONG_S)
        with pytest.raises(ValueError, match="spoilt"):
            async with turns.taken():
                raise ValueError("spoilt")
        async with turns.taken():
            pass

    played(play)


def test_tools_take_turns(measured: MeasuredLab) -> None:
    inside, most, lock = 0, list[int](), threading.Lock()

    def count() -> None:
        nonlocal inside
        with lock:
            inside += 1
        most.append(inside)
        measured.lab.overview()
        with lock:
            inside -= 1

    async def play() -> None:
        bridge = Bridge(measured.lab)
        await asyncio.gather(*(bridge.call(count) for _ in range(24)))

    played(play)
    assert len(most) == 24 and max(most) == 1


def test_a_turn_is_not_spent_waiting_for_threads_that_others_use(measured: MeasuredLab) -> None:
    async def play() -> None:
        others = anyio.to_thread.current_default_thread_limiter()
        others.total_tokens = 1
        async with others:
            assert await Bridge(measured.lab).call(measured.lab.champion) == measured.lab.champion()

    played(play)
