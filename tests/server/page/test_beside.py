"""The process that draws the page beside a server: what it draws, what it refuses, and when it ends."""

import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.bridge import Identity
from autoresearch_mcp.server.mcp.front import TOKEN
from autoresearch_mcp.server.page.beside import Beside
from autoresearch_mcp.server.page.drawing import INTERNAL, Drawing
from autoresearch_mcp.server.page.views import VIEWS
from autoresearch_mcp.server.paths import LabPaths, StatePaths
from autoresearch_mcp.server.roles import Role
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.mcp.conftest import FakeRunnerLab
from tests.server.mcp.listening import served_over_http
from tests.server.page.conftest import TOKEN as SECRET
from tests.server.page.test_routes import ask
from tests.waiting import until

pytestmark = pytest.mark.anyio
Named = tuple[FakeRunnerLab, dict[str, str]]
CHART = {"filters": {"author": "", "tag": "", "device": ""}, "start": 0, "end": 0}


def view(name: str, which: str = "", visitor: Identity = Identity("ann", Role.OWNER)) -> dict[str, Any]:  # noqa: B008 it is frozen
    return {"view": name, "visitor": visitor, "query": {}, "name": which, "mark": "the mark"}


def is_there(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    with contextlib.suppress(OSError):
        return stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
async def beside(page_lab: Named) -> AsyncIterator[Beside]:
    with contextlib.closing(Beside(page_lab[0].root)) as beside:
        yield beside


async def test_it_draws_what_the_server_itself_would(beside: Beside, page_lab: Named) -> None:
    named = {"experiment": "finished", "commit": "winner"}
    with contextlib.closing(Lab(page_lab[0].root)) as lab:
        here = Drawing(lab)
        for name in VIEWS:
            for visitor in (Identity("ann", Role.OWNER), Identity("vic", Role.VIEWER), Identity()):
                asked = view(name, page_lab[1][named[name]] if name in named else "", visitor)
                drawn, own = [
                    re.sub(r"\d+ ?(s|min)\b|\d\d:\d\d", "", html.decode())
                    for html in (await beside.draw("view", asked), here.view(**asked))
                ]
                assert drawn == own and "<h1" in drawn, name
        assert await beside.draw("chart", CHART) == here.chart(**CHART)  # type: ignore[arg-type]
        curve = {"name": page_lab[1]["finished"]}
        assert await beside.draw("curve", curve) == here.curve(**curve) and json.loads(here.curve(**curve))


async def test_it_starts_no_runner_which_would_be_as_nice_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    create_lab(root, profile="tiny")
    state = LabPaths(root).state
    with contextlib.closing(Lab(root)) as lab, contextlib.closing(Beside(root)) as beside:
        with runner_lock(state):  # so that none starts
            queued = lab.launch_training("champion", "ada", 2).experiments
        assert queued[0].encode() in await beside.draw("view", view("campaign"))
        assert not StatePaths(state).runner_starts.exists()  # which is written before one starts


async def test_refusals_reach_who_looks_and_a_fault_of_ours_ends_nothing(
    beside: Beside, page_lab: Named, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LabError) as unknown:
        await beside.draw("view", view("experiment", "e-1m8dd3qhgr0w99r"))
    assert unknown.value.code == "unknown_experiment"
    before = beside.pid
    with pytest.raises(LabError) as fault:
        await beside.draw("view", view("no view"))
    incident = re.search(r"logged as (\w+)", str(fault.value))
    assert fault.value.code == INTERNAL and incident and incident[1] in capfd.readouterr().err
    assert await beside.draw("chart", CHART) and beside.pid == before


async def test_one_that_was_killed_is_replaced(beside: Beside) -> None:
    await beside.draw("chart", CHART)
    before = beside.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert await beside.draw("chart", CHART) and beside.pid not in (None, before)


async def test_one_that_hangs_is_ended(beside: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await beside.draw("chart", CHART)
    hanging = beside.pid
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr("autoresearch_mcp.server.page.beside.DRAW_S", 0.05)  # too little for a new one too
        with pytest.raises(LabError) as refused:
            await beside.draw("chart", CHART)
    assert refused.value.code == "not_drawn" and not is_there(hanging)
    assert await beside.draw("chart", CHART) == first


async def test_it_ends_when_nobody_looks_and_starts_again_when_somebody_does(page_lab: Named) -> None:
    with contextlib.closing(Beside(page_lab[0].root, idle_s=0.2)) as beside:
        first = await beside.draw("chart", CHART)
        pid = beside.pid
        assert pid is not None
        until(lambda: not is_there(pid), 20)
        assert await beside.draw("chart", CHART) == first and beside.pid != pid


async def test_once_closed_none_is_left_and_none_is_started(page_lab: Named) -> None:
    beside = Beside(page_lab[0].root)
    await beside.draw("chart", CHART)
    pid = beside.pid
    beside.close()
    assert pid is not None and not is_there(pid) and beside.pid is None
    with pytest.raises(LabError) as refused:
        await beside.draw("chart", CHART)
    assert refused.value.code == "not_drawn" and beside.pid is None


async def test_a_folder_that_is_no_lab_says_so(tmp_path: Path) -> None:
    with contextlib.closing(Beside(tmp_path)) as beside, pytest.raises(LabError) as refused:
        await beside.draw("chart", CHART)
    assert refused.value.code == "not_a_lab"


def test_it_ends_with_its_server_however_that_ends_and_knows_no_token(page_lab: Named) -> None:
    for end in (signal.SIGKILL, signal.SIGTERM):
        with served_over_http(page_lab[0].root, **{TOKEN: SECRET}) as server:
            assert ask(server.url, "/promotions", SECRET).status == 200
            children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
            listed = [int(pid) for each in children.parent.parent.glob("*/children") for pid in each.read_text(encoding="ascii").split()]
            (drawer,) = [pid for pid in listed if b"page.beside" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            assert TOKEN.encode() not in Path(f"/proc/{drawer}/environ").read_bytes()
            server.process.send_signal(end)
            until(lambda: not is_there(drawer), 20)  # noqa: B023 it is called at once
