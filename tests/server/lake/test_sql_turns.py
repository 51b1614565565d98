"""Statements take turns: quick ones pass, few long ones run at once, in order, and none waits for another caller's crowd."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake.sql.turns import QUICK, QUICK_WAITING, SLOW, SLOW_EACH, SLOW_WAITING, SLOW_WAITING_EACH, Turns


class Crowd:
    """Callers in threads of their own; each moves to the slow lane and holds its turn until it may leave."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.may_leave = threading.Event()
        self.served: list[str] = []
        self._threads = ThreadPoolExecutor(64)

    def come(self, caller: str) -> "Future[None]":
        """Returns once the caller has its turn in the slow lane, waits for one, or was turned away."""
        return self._come(self._go_slowly, caller)

    def come_quickly(self, caller: str) -> "Future[None]":
        """Returns once the caller has its turn in the quick lane, waits for one, or was turned away."""
        return self._come(self._go_quickly, caller)

    def _come(self, way: object, caller: str) -> "Future[None]":
        before = self._state()
        future: Future[None] = self._threads.submit(way, caller)  # type: ignore[arg-type]
        while self._state() == before and not future.done():
            threading.Event().wait(0.001)
        return future

    def _state(self) -> tuple[int, ...]:
        return self.turns.quick.waiting, self.turns.slow.waiting, len(self.served)

    def _go_slowly(self, caller: str) -> None:
        with self.turns.turn(caller) as turn:
            turn.slow_down()
            self.served.append(caller)
            assert self.may_leave.wait(60)

    def _go_quickly(self, caller: str) -> None:
        with self.turns.turn(caller):
            self.served.append(caller)
            assert self.may_leave.wait(60)

    def close(self) -> None:
        self.may_leave.set()
        self._threads.shutdown()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd()
    yield crowd
    crowd.close()


def test_few_long_ones_run_at_once_and_the_rest_in_the_order_in_which_they_came(crowd: Crowd) -> None:
    names = [f"agent {n}" for n in range(SLOW + 4)]
    futures = [crowd.come(name) for name in names]
    assert crowd.served == names[:SLOW] and crowd.turns.slow.waiting == 4
    crowd.may_leave.set()
    for future in futures:
        future.result(60)
    assert sorted(crowd.served) == sorted(names)


def test_long_ones_leave_the_quick_lane_free_whoever_asks(crowd: Crowd) -> None:
    """Nothing tells callers apart behind a proxy, or where one agent opens many connections."""
    for _ in range(SLOW + SLOW_WAITING):
        crowd.come("")
    crowd.come_quickly("")
    assert len(crowd.served) == SLOW + 1


def test_a_turn_moves_at_once_only_where_the_slow_lane_has_a_place(crowd: Crowd) -> None:
    for n in range(SLOW - 1):
        crowd.come(f"agent {n}")
    with crowd.turns.turn("ada") as first, crowd.turns.turn("bob") as second:
        assert first.slow_down_now() and first.slow_down_now()
        assert not second.slow_down_now()
        first.leave()
        assert second.slow_down_now()


def test_a_caller_with_many_long_statements_leaves_room_for_others(crowd: Crowd) -> None:
    for _ in range(SLOW + 2):
        crowd.come("ada")
    assert crowd.served == ["ada"] * SLOW_EACH
    crowd.come("bob")
    assert crowd.served[-1] == "bob"


def test_whoever_asks_for_too_much_is_turned_away_at_once_and_others_are_not(crowd: Crowd) -> None:
    for _ in range(SLOW_EACH + SLOW_WAITING_EACH):
        crowd.come("ada")
    with pytest.raises(LabError, match="Try again") as refusal:
        crowd.come("ada").result(60)
    assert refusal.value.code == "busy"
    crowd.come("bob")
    assert crowd.served[-1] == "bob"


def test_a_waiting_room_holds_so_many(crowd: Crowd) -> None:
    for n in range(SLOW + SLOW_WAITING):
        crowd.come(f"agent {n}")
    with pytest.raises(LabError, match="Try again"):
        crowd.come("bob").result(60)
    for n in range(QUICK + QUICK_WAITING):
        crowd.come_quickly(f"agent {n}")
    with pytest.raises(LabError, match="Try again"):
        crowd.come_quickly("bob").result(60)


def test_one_long_copy_is_made_at_a_time() -> None:
    turns, begun, may_end = Turns(), threading.Semaphore(0), threading.Event()

    def copy() -> bool:
        begun.release()
        return may_end.wait(60)

    with ThreadPoolExecutor(2) as threads:
        copies = [threads.submit(turns.alone, copy) for _ in range(2)]
        assert begun.acquire(timeout=60)
        assert not begun.acquire(timeout=0.2)
        may_end.set()
        assert [each.result(60) for each in copies] == [True, True]


def test_a_turn_that_fails_is_given_back() -> None:
    turns = Turns()
    for _ in range(QUICK + SLOW + 1):
        with ExitStack() as stack, pytest.raises(ZeroDivisionError):
            stack.enter_context(turns.turn("ada")).slow_down()
            raise ZeroDivisionError
