"""Calls that wait: one look for all of them, and none misses what it waits for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio
import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.mcp import lookout
from autoresearch_mcp.server.mcp.lookout import Lookout

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class Call:
    watched: dict[str, str] | None
    counter: int | None = 0


class Ledger:
    def __init__(self) -> None:
        self.counter, self.now, self.asked = 0, dict[str, str](), list[list[str]]()
        self.fault: Exception | None = None
        self.lookout = Lookout(lambda: self.counter, self.states)

    async def states(self, ids: Sequence[str]) -> dict[str, str]:
        self.asked.append([*ids])
        if self.fault is not None:
            raise self.fault
        return {id: self.now[id] for id in ids}

    def move(self, **states: str) -> None:
        self.counter, self.now = self.counter + 1, {**self.now, **states}

    async def moved(self, call: Call, within_s: float = 20.0) -> None:
        await self.lookout.moved(call, anyio.current_time() + within_s)


async def come(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "POLL_S", 0.005)


async def test_a_hundred_who_wait_cost_one_reading_a_change_and_only_who_is_concerned_wakes() -> None:
    ledger, woken = Ledger(), list[str]()
    ids = [f"e{n}" for n in range(100)]
    ledger.move(**dict.fromkeys(ids, "queued"))

    async def wait(id: str) -> None:
        await ledger.moved(Call({id: "queued"}, ledger.counter))
        woken.append(id)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for id in ids:
                tasks.start_soon(wait, id)
            await anyio.wait_all_tasks_blocked()
            assert ledger.asked == []
            ledger.move(e7="running")
            await come(lambda: bool(woken))
            assert woken == ["e7"] and len(ledger.asked) == 1 and len(ledger.asked[0]) == 100
            ledger.move(other="queued")
            await come(lambda: len(ledger.asked) == 2)
            await anyio.wait_all_tasks_blocked()
            assert woken == ["e7"]
            tasks.cancel_scope.cancel()


async def test_what_changed_before_the_wait_began_is_not_missed() -> None:
    ledger = Ledger()
    ledger.move(e1="running")
    call = Call({"e1": "queued"}, ledger.counter - 1)  # read just before it changed
    with anyio.fail_after(20):
        await ledger.moved(call)
    assert ledger.asked == [["e1"]]


async def test_whom_any_change_may_concern_wakes_without_a_reading() -> None:
    ledger = Ledger()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ledger.moved, Call(None))
            await anyio.wait_all_tasks_blocked()
            ledger.move(e1="queued")
    assert ledger.asked == []


async def test_where_any_change_may_concern_many_each_reads_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "LOOKS", 100)
    ledger, began, rested = Ledger(), anyio.current_time(), list[float]()

    async def wait() -> None:
        await ledger.moved(Call(None))
        rested.append(anyio.current_time() - began)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            ledger.move(e1="queued")
    assert min(rested) >= 0.2, "20 of them, each once in a fifth of a second"


async def test_a_wait_ends_in_time_and_the_look_with_the_last_of_them() -> None:
    ledger = Ledger()
    began = anyio.current_time()
    await ledger.moved(Call({"e1": "queued"}), 0.02)
    assert anyio.current_time() >= began + 0.02
    await come(lambda: not ledger.lookout.is_looking)


@pytest.mark.parametrize("fault", [LabError("The disk is full.", "disk_full"), RuntimeError("a fault of ours")])
async def test_who_waits_is_woken_where_the_ledger_cannot_be_read(fault: Exception) -> None:
    ledger = Ledger()
    ledger.move(e1="queued")
    ledger.fault = fault
    with anyio.fail_after(20):
        await ledger.moved(Call({"e1": "queued"}))
    assert ledger.asked
