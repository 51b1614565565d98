"""A process that answers beside a server: what it answers, what it refuses, and when it ends."""

import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.beside.process import Beside
from autoresearch_mcp.server.beside.work import INTERNAL
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from tests.processes import is_there
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Answers:
    """Questions about a lab, some of which go wrong."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def champion(self) -> str:
        return self._lab.champion()

    def repeated(self, what: object, times: int = 1) -> list[object]:
        return [what] * times

    def refuse(self) -> None:
        raise LabError("There is no such thing.", "unknown_thing")

    def fail(self) -> None:
        raise ZeroDivisionError("a fault of ours")

    def not_to_be_sent(self) -> Callable[[], int]:
        return lambda: 1


@pytest.fixture
def root(make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))  # where it finds this file
    return make_lab()


@pytest.fixture
async def beside(root: Path) -> AsyncIterator[Beside[Answers]]:
    with contextlib.closing(Beside(Answers, root)) as beside:
        yield beside


async def test_it_answers_from_the_lab_with_any_value_and_of_any_size(beside: Beside[Answers], root: Path) -> None:
    with contextlib.closing(Lab(root)) as lab:
        assert await beside.ask(Answers.champion) == lab.champion()
    for what in (float("inf"), b"\0", {"a": (1, None)}, "x" * 3_000_000):
        assert await beside.ask(Answers.repeated, what, times=2) == [what, what]


async def test_refusals_reach_who_asks_and_a_fault_of_ours_ends_nothing(beside: Beside[Answers], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LabError) as unknown:
        await beside.ask(Answers.refuse)
    assert unknown.value.code == "unknown_thing" and str(unknown.value) == "There is no such thing."
    before = beside.pid
    for question in (Answers.fail, Answers.not_to_be_sent):
        with pytest.raises(LabError) as fault:
            await beside.ask(question)
        incident = re.search(r"logged as (\w+)", str(fault.value))
        assert fault.value.code == INTERNAL and incident and incident[1] in capfd.readouterr().err
    assert await beside.ask(Answers.champion) and beside.pid == before


async def test_one_that_was_killed_is_replaced(beside: Beside[Answers]) -> None:
    champion, before = await beside.ask(Answers.champion), beside.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert await beside.ask(Answers.champion) == champion and beside.pid not in (None, before)


async def test_one_that_hangs_is_ended(beside: Beside[Answers], monkeypatch: pytest.MonkeyPatch) -> None:
    champion, hanging = await beside.ask(Answers.champion), beside.pid
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr("autoresearch_mcp.server.beside.process.ANSWER_S", 0.05)  # too little for a new one too
        with pytest.raises(LabError) as refused:
            await beside.ask(Answers.champion)
    assert refused.value.code == "no_answer" and not is_there(hanging)
    assert await beside.ask(Answers.champion) == champion


async def test_it_ends_when_nobody_asks_and_starts_again_when_somebody_does(root: Path) -> None:
    with contextlib.closing(Beside(Answers, root, idle_s=0.2)) as beside:
        champion, pid = await beside.ask(Answers.champion), beside.pid
        assert pid is not None
        until(lambda: not is_there(pid), 20)
        assert await beside.ask(Answers.champion) == champion and beside.pid != pid


async def test_once_closed_none_is_left_and_none_is_started(beside: Beside[Answers]) -> None:
    await beside.ask(Answers.champion)
    pid = beside.pid
    beside.close()
    assert pid is not None and not is_there(pid) and beside.pid is None
    with pytest.raises(LabError) as refused:
        await beside.ask(Answers.champion)
    assert refused.value.code == "no_answer" and beside.pid is None


async def test_it_is_as_nice_as_it_is_told_to_be(root: Path) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.closing(Beside(Answers, root, niceness=own + 3)) as beside:
        await beside.ask(Answers.champion)
        assert beside.pid is not None and os.getpriority(os.PRIO_PROCESS, beside.pid) == own + 3


async def test_a_folder_that_is_no_lab_says_so(root: Path) -> None:
    with contextlib.closing(Beside(Answers, root / "none")) as beside, pytest.raises(LabError) as refused:
        await beside.ask(Answers.champion)
    assert refused.value.code == "not_a_lab"
