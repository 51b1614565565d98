"""A process that answers beside a server: what it answers, what it refuses, and when it ends."""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from autoresearch_mcp.server.beside.process import Beside
from autoresearch_mcp.server.beside.work import INTERNAL
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.paths import LabPaths
from tests.processes import helpers, is_there
from tests.waiting import until

pytestmark = pytest.mark.anyio


class Answers:
    """Questions about a lab, some of which go wrong."""

    def __init__(self, lab: Lab) -> None:
        self._lab, self._warm = lab, False

    def champion(self) -> str:
        return self._lab.champion()

    def warm_up(self) -> None:
        self._warm = True

    def is_warm(self) -> bool:
        return self._warm

    def process(self) -> int:
        return os.getpid()

    def wait_for(self, path: str) -> int:
        until(lambda: Path(path).exists(), 60)
        return os.getpid()

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
def lab(root: Path) -> Iterator[Lab]:
    with contextlib.closing(Lab(root)) as lab:
        yield lab


@pytest.fixture
async def beside(lab: Lab) -> AsyncIterator[Beside[Answers]]:
    with contextlib.closing(Beside(Answers, lab)) as beside:
        yield beside


async def test_it_answers_from_the_lab_with_any_value_and_of_any_size(beside: Beside[Answers], lab: Lab) -> None:
    assert await beside.ask(Answers.champion) == lab.champion()
    assert await beside.ask(Answers.process) == beside.pid != os.getpid()
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


async def test_all_who_wait_when_it_dies_are_answered_by_the_next(beside: Beside[Answers], tmp_path: Path) -> None:
    await beside.ask(Answers.champion)
    first, go_on = beside.pid, tmp_path / "go on"
    assert first is not None
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(beside.ask(Answers.wait_for, str(go_on))) for _ in range(5)]
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        go_on.touch()
    assert {each.result() for each in asked} == {beside.pid} and beside.pid != first


async def test_one_that_says_nothing_is_ended_and_its_question_is_not_repeated(
    beside: Beside[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, hanging = await beside.ask(Answers.champion), beside.pid
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr("autoresearch_mcp.server.beside.process.ANSWER_S", 0.05)
        with pytest.raises(LabError) as refused:
            await beside.ask(Answers.champion)
    assert refused.value.code == "no_answer" and beside.pid is None
    until(lambda: not is_there(hanging), 20)
    assert await beside.ask(Answers.champion) == champion


async def test_a_question_that_takes_too_long_ends_no_other(
    beside: Beside[Answers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await beside.ask(Answers.champion)
    pid, others = beside.pid, asyncio.create_task(repeat(beside))
    with monkeypatch.context() as patched:
        patched.setattr("autoresearch_mcp.server.beside.process.ANSWER_S", 2.0)
        with pytest.raises(LabError) as refused:
            await beside.ask(Answers.wait_for, str(tmp_path / "never"))
    others.cancel()
    assert refused.value.code == "no_answer" and await beside.ask(Answers.process) == pid


async def repeat(beside: Beside[Answers]) -> None:
    while True:
        await beside.ask(Answers.champion)


async def test_who_is_cancelled_leaves_when_the_answer_is_there(beside: Beside[Answers], tmp_path: Path) -> None:
    answered, go_on = list[int](), tmp_path / "go on"

    async def ask() -> None:
        answered.append(await beside.ask(Answers.wait_for, str(go_on)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await beside.ask(Answers.champion)
        tasks.cancel_scope.cancel()
        go_on.touch()
    assert answered == [beside.pid], "what it computes still would stand in others' way"


async def test_one_that_is_quick_answers_by_the_server_until_the_process_is_there(lab: Lab, tmp_path: Path) -> None:
    with contextlib.closing(Beside(Answers, lab, is_quick=True)) as beside:
        assert await beside.ask(Answers.process) == os.getpid() and beside.pid is None
        await beside.start()
        first = beside.pid
        assert first is not None and await beside.ask(Answers.process) == first
        asked = asyncio.create_task(beside.ask(Answers.wait_for, str(tmp_path / "go on")))
        await beside.ask(Answers.champion)
        os.kill(first, signal.SIGKILL)
        (tmp_path / "go on").touch()
        assert await asked == os.getpid()
        await beside.start()
        assert await beside.ask(Answers.process) == beside.pid != first


async def test_it_is_warm_before_it_answers(lab: Lab) -> None:
    with contextlib.closing(Beside(Answers, lab)) as beside:
        assert await beside.ask(Answers.is_warm)


async def test_a_question_that_cannot_be_sent_ends_nothing(beside: Beside[Answers]) -> None:
    await beside.ask(Answers.champion)
    pid = beside.pid
    with pytest.raises(AttributeError):
        await beside.ask(Answers.repeated, lambda: 1)
    assert await beside.ask(Answers.process) == pid


WHY = {
    "invalid": "not valid TOML",
    "another log": "where lab.toml keeps the log",
    "another version": "this program",
    "none can start": "No such file",
}


@pytest.mark.parametrize("change", WHY)
async def test_while_no_process_can_open_the_same_lab_the_server_answers_by_itself(
    root: Path, lab: Lab, change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = LabPaths(root).settings
    text = settings.read_text("utf-8")
    if change == "another version":
        monkeypatch.setattr("autoresearch_mcp.server.beside.process.__version__", "0.0.0")
    elif change == "none can start":
        monkeypatch.setattr("sys.executable", str(root / "none"))
    else:
        settings.write_text(
            "[lab" if change == "invalid" else re.sub(r"(?m)^\[lake\]$", '[lake]\ntables = "others"', text), encoding="utf-8"
        )
    with contextlib.closing(Beside(Answers, lab)) as beside:
        for _ in range(2):
            assert await beside.ask(Answers.process) == os.getpid() and beside.pid is None
        assert caplog.text.count("answers by itself") == 1 and WHY[change] in caplog.text, "it is not tried again at once"


async def test_a_process_is_had_again_once_it_can_open_the_lab(root: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.beside.process.AGAIN_S", 0.0)
    settings = LabPaths(root).settings
    text = settings.read_text("utf-8")
    settings.write_text("[lab", encoding="utf-8")
    with contextlib.closing(Beside(Answers, lab)) as beside:
        assert await beside.ask(Answers.process) == os.getpid()
        settings.write_text(text, encoding="utf-8")
        assert await beside.ask(Answers.process) == beside.pid != os.getpid()


async def test_it_ends_when_nobody_asks_and_starts_again_when_somebody_does(lab: Lab) -> None:
    with contextlib.closing(Beside(Answers, lab, idle_s=0.2)) as beside:
        champion, pid = await beside.ask(Answers.champion), beside.pid
        assert pid is not None
        until(lambda: not is_there(pid), 20)
        assert await beside.ask(Answers.champion) == champion and beside.pid != pid


async def test_once_closed_none_is_left_and_none_is_started(beside: Beside[Answers]) -> None:
    await beside.ask(Answers.champion)
    pid = beside.pid
    beside.close()
    assert pid is not None and beside.pid is None
    until(lambda: not is_there(pid), 20)
    with pytest.raises(LabError) as refused:
        await beside.ask(Answers.champion)
    assert refused.value.code == "no_answer" and beside.pid is None


async def test_it_is_as_nice_as_it_is_told_to_be(lab: Lab) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.closing(Beside(Answers, lab, niceness=own + 3)) as beside:
        await beside.ask(Answers.champion)
        assert beside.pid is not None and os.getpriority(os.PRIO_PROCESS, beside.pid) == own + 3


async def test_one_that_is_closed_while_it_starts_is_not_left(beside: Beside[Answers], root: Path) -> None:
    asked = asyncio.create_task(beside.ask(Answers.champion))
    await anyio.to_thread.run_sync(until, lambda: helpers(os.getpid(), Answers), 20)
    beside.close()
    with pytest.raises(LabError) as refused:
        await asked
    assert refused.value.code == "no_answer"
    until(lambda: not helpers(os.getpid(), Answers), 20)
