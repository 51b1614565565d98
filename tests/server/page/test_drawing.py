"""The process that draws the page beside a server: what it draws, and that it starts and ends as it should."""

import contextlib
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.beside.process import Beside
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.page.drawing import Drawing
from autoresearch_mcp.server.page.views import VIEWS
from autoresearch_mcp.server.paths import LabPaths, StatePaths
from autoresearch_mcp.server.roles import TOKEN, Identity, Role
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.processes import helpers, is_there
from tests.server.mcp.conftest import FakeRunnerLab
from tests.server.mcp.listening import served_over_http
from tests.server.page.conftest import TOKEN as SECRET
from tests.server.page.test_routes import ask
from tests.waiting import until

pytestmark = pytest.mark.anyio
Named = tuple[FakeRunnerLab, dict[str, str]]
CHART = {"author": "", "tag": "", "device": ""}, 0, 0


def view(name: str, which: str = "", visitor: Identity = Identity("ann", Role.OWNER)) -> dict[str, Any]:  # noqa: B008 it is frozen
    return {"view": name, "visitor": visitor, "query": {}, "name": which, "mark": "the mark"}


async def test_it_draws_what_the_server_itself_would(page_lab: Named) -> None:
    named = {"experiment": "finished", "commit": "winner"}
    with contextlib.closing(Lab(page_lab[0].root)) as lab, contextlib.closing(Beside(Drawing, lab)) as beside:
        here = Drawing(lab)
        for name in VIEWS:
            for visitor in (Identity("ann", Role.OWNER), Identity("vic", Role.VIEWER), Identity()):
                asked = view(name, page_lab[1][named[name]] if name in named else "", visitor)
                drawn, own = [
                    re.sub(r"\d+ ?(s|min)\b|\d\d:\d\d", "", html.decode())
                    for html in (await beside.ask(Drawing.view, **asked), here.view(**asked))
                ]
                assert drawn == own and "<h1" in drawn, name
        assert await beside.ask(Drawing.chart, *CHART) == here.chart(*CHART)
        curve = page_lab[1]["finished"]
        assert await beside.ask(Drawing.curve, curve) == here.curve(curve) and json.loads(here.curve(curve))
        with pytest.raises(LabError) as unknown:
            await beside.ask(Drawing.view, **view("experiment", "e-1m8dd3qhgr0w99r"))
        assert unknown.value.code == "unknown_experiment"


async def test_it_starts_no_runner_which_would_be_as_nice_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "lab"
    create_lab(root, profile="tiny")
    state = LabPaths(root).state
    with contextlib.closing(Lab(root)) as lab, contextlib.closing(Beside(Drawing, lab)) as beside:
        with runner_lock(state):  # so that none starts
            queued = lab.launch_training("champion", "ada", 2).experiments
        assert queued[0].encode() in await beside.ask(Drawing.view, **view("campaign"))
        assert not StatePaths(state).runner_starts.exists()  # which is written before one starts


def test_it_ends_with_its_server_however_that_ends_and_knows_no_token(page_lab: Named) -> None:
    for end in (signal.SIGKILL, signal.SIGTERM):
        with served_over_http(page_lab[0].root, **{TOKEN: SECRET}) as server:
            assert ask(server.url, "/promotions", SECRET).status == 200
            (drawer,) = helpers(server.process.pid, Drawing)
            assert TOKEN.encode() not in Path(f"/proc/{drawer}/environ").read_bytes()
            server.process.send_signal(end)
            until(lambda: not is_there(drawer), 20)  # noqa: B023 it is called at once
