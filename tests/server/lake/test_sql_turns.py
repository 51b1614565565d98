"""Statements take turns: few at once, in order, and none waits for another caller's crowd."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake.sql.turns import AT_ONCE, AT_ONCE_EACH, WAITING, WAITING_EACH, Turns


class Crowd:
    """Callers in threads of their own; each holds its turn until it may leave."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.may_leave = threading.Event()
        self.served: list[str] = []
        self._threads = ThreadPoolExecutor(64)

    def come(self, caller: str) -> "Future[None]":
        """Returns once the caller has its turn, waits for one, or was turned away."""
        before = self.turns.waiting, len(self.served)
        future = self._threads.submit(self._serve, caller)
        while (self.turns.waiting, len(self.served)) == before and not future.done():
            threading.Event().wait(0.001)
        return future

    def _serve(self, caller: str) -> None:
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


def test_few_run_at_once_and_the_rest_in_the_order_in_which_they_came(crowd: Crowd) -> None:
    names = [f"agent {n}" for n in range(AT_ONCE + 4)]
    futures = [crowd.come(name) for name in names]
    assert crowd.served == names[:AT_ONCE] and crowd.turns.waiting == 4
    crowd.may_leave.set()
    for future in futures:
        future.result(60)
    assert sorted(crowd.served) == sorted(names)


def test_a_caller_with_many_statements_leaves_room_for_others(crowd: Crowd) -> None:
    for _ in range(AT_ONCE + 2):
        crowd.come("ada")
    assert crowd.served == ["ada"] * AT_ONCE_EACH
    crowd.come("bob")
    assert crowd.served[-1] == "bob"


def test_whoever_asks_for_too_much_is_turned_away_at_once_and_others_are_not(crowd: Crowd) -> None:
    for _ in range(AT_ONCE_EACH + WAITING_EACH):
        crowd.come("ada")
    with pytest.raises(LabError, match="Try again") as refusal:
        crowd.come("ada").result(60)
    assert refusal.value.code == "busy"
    crowd.come("bob")
    assert crowd.served[-1] == "bob"


def test_a_waiting_room_holds_so_many(crowd: Crowd) -> None:
    for n in range(AT_ONCE + WAITING):
        crowd.come(f"agent {n}")
    with pytest.raises(LabError, match="Try again"):
        crowd.come("bob").result(60)


def test_a_turn_that_fails_is_given_back() -> None:
    turns = Turns()
    for _ in range(AT_ONCE + 1):
        with ExitStack() as stack, pytest.raises(ZeroDivisionError):
            stack.enter_context(turns.turn("ada"))
            raise ZeroDivisionError
