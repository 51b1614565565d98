"""From a finished edit to a number in one call, and a word where the champion moved under the edit."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from mcp import Client

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.proposals.repo import Repo
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


async def answer(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    with anyio.fail_after(20):
        result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content or {}


async def test_one_call_proposes_trains_and_answers_with_the_number(fake: FakeRunnerLab) -> None:
    edits = [{"path": "train.py", "search": "WIDTH = 64", "replace": "WIDTH = 96"}]

    async def run() -> None:
        queued = await anyio.to_thread.run_sync(until, fake.ledger.open_experiments)
        fake.finish(queued[0].id, 1.5, "k")

    with contextlib.closing(Lab(fake.root)) as lab:
        async with Client(build_server(lab)) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            told = await answer(client, "propose_patch", hypothesis="Wider, as there is room.", edits=edits, launch=1, wait_s=15)
            assert [line["val_bpb"] for line in told["launched"]] == [1.5] and "All have ended" in told["note"]
            edits[0]["replace"] = "WIDTH = 128"
            told = await answer(client, "propose_patch", hypothesis="Wider, as there is room.", edits=edits, launch=1)
            (line,) = told["launched"]
            assert line["state"] == "queued" and "wait_for_experiments" in told["note"]


async def test_a_caller_who_read_an_older_champion_is_told_once(fake: FakeRunnerLab) -> None:
    with contextlib.closing(Lab(fake.root)) as lab:
        async with Client(build_server(lab)) as client:
            await client.call_tool("read_file", {})
            old = lab.champion()
            first = await answer(client, "propose_patch", hypothesis="Deeper, as there is room.", edits=[_edit("DEPTH = 2", "DEPTH = 3")])
            assert "The champion is" not in first["note"]
            Repo(fake.root).advance(old, first["commit"])
            stale = [_edit("DEPTH = 2", "DEPTH = 4")]
            refused = await client.call_tool("propose_patch", {"hypothesis": "Deeper than before.", "edits": stale})
            assert refused.is_error and f"the file that you read is {old[:12]}'s" in str(refused.content)
            again = await answer(client, "propose_patch", hypothesis="Deeper than before.", edits=[_edit("DEPTH = 3", "DEPTH = 5")])
            assert "The champion is" not in again["note"]


def _edit(search: str, replace: str) -> dict[str, str]:
    return {"path": "train.py", "search": search, "replace": replace}
