"""Whom a server works for: what it signs, and whose experiments may be cancelled by whom."""

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.proposals.repo import Repo
from tests.server.mcp.calls import answer, refusal
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def runner_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


@contextlib.asynccontextmanager
async def serving(lab: FakeRunnerLab, *options: str) -> AsyncIterator[Client]:
    arguments = ["-P", "-m", "autoresearch_mcp.server.cli", "serve", *options, str(lab.root)]
    async with Client(StdioServerParameters(command=sys.executable, args=arguments, cwd=Path.cwd())) as client:
        yield client


async def launch(client: Client, **arguments: Any) -> str:
    launched = await answer(client, "launch_training", commit="champion", **arguments)
    return str(launched["experiments"][0])


async def test_only_who_launched_an_experiment_can_cancel_it(runner_lab: FakeRunnerLab) -> None:
    async with serving(runner_lab) as client:
        id = await launch(client, author="ada")
        refused = await refusal(client, "cancel_experiment", ids=[id], author="bob")
        assert "launched by ada" in refused and f"autoresearch-mcp cancel {id}" in refused and "Nothing was changed" in refused
        refused = await refusal(client, "cancel_experiment", ids=[id])
        assert "launched by ada" in refused
        assert [e.id for e in runner_lab.ledger.open_experiments("queued")] == [id]
        runner_lab.move(id, "running", attempt=1, started_at=1.0)
        await refusal(client, "cancel_experiment", ids=[id], author="bob")
        assert not runner_lab.ledger.open_experiments()[0].cancel_requested
        assert (await answer(client, "cancel_experiment", ids=[id], author="ada"))["states"] == {id: "running"}
        (marked,) = runner_lab.ledger.open_experiments()
        assert marked.cancel_requested and marked.cancelled_by == "ada"
        runner_lab.move(id, "cancelled", finished_at=2.0)
        ended = await answer(client, "cancel_experiment", ids=[id], author="bob")
        assert ended["states"] == {id: "cancelled"} and "before" in ended["note"]


async def test_a_server_that_works_for_one_agent_signs_as_that_agent_alone(runner_lab: FakeRunnerLab) -> None:
    async with serving(runner_lab, "--as", "bob") as bob, serving(runner_lab, "--as", "ada") as ada:
        id = await launch(ada)
        assert runner_lab.ledger.open_experiments()[0].author == "ada"
        for tool, arguments in {
            "cancel_experiment": {"ids": [id]},
            "launch_training": {"commit": "champion"},
            "write_memory": {"kind": "finding", "text": "Signed with the name of another."},
            "propose_patch": {"hypothesis": "A wider model is better.", "files": {"train.py": "WIDTH = 1\n"}},
            "promote_commit": {"commit": "champion"},
        }.items():
            refused = await refusal(bob, tool, author="ada", **arguments)
            assert "signs as bob, not as ada" in refused, tool
        assert "launched by ada" in await refusal(bob, "cancel_experiment", ids=[id])
        assert (await answer(ada, "cancel_experiment", ids=[id], author="ada"))["states"] == {id: "cancelled"}


async def test_an_orchestrator_can_cancel_what_others_launched_and_the_record_names_it(runner_lab: FakeRunnerLab) -> None:
    async with serving(runner_lab, "--as", "chief", "--role", "orchestrator") as chief, serving(runner_lab) as others:
        id = await launch(others, author="ada")
        refused = await refusal(chief, "cancel_experiment", ids=[id])
        assert "launched by ada: say why" in refused and runner_lab.ledger.open_experiments("queued")
        stopped = await answer(chief, "cancel_experiment", ids=[id], reason="It trains what was decided.")
        assert stopped["states"] == {id: "cancelled"}
        heard = await answer(others, "get_status")
        assert heard["news"] == [f"chief cancelled {id}, which you launched: It trains what was decided."]
        assert "news" not in await answer(others, "get_status")
        assert (await answer(others, "get_experiment", id=id))["against_champion"] == "It was cancelled by chief."
        (score,) = [score for score in runner_lab.ledger.scores(Repo(runner_lab.root).champion()) if score.experiment == id]
        assert (score.author, score.cancelled_by, score.fault, score.cancelled_running) == ("ada", "chief", "cancel", False)


async def test_the_owner_can_cancel_on_the_command_line(runner_lab: FakeRunnerLab, capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(runner_lab) as client:
        id = await launch(client, author="ada")
        runner_lab.move(id, "running", attempt=1, started_at=1.0)
        assert cli.main(["cancel", id, str(runner_lab.root)]) == 0
        assert "being stopped" in capsys.readouterr().out
        (marked,) = runner_lab.ledger.open_experiments()
        assert marked.cancel_requested and marked.cancelled_by == "[owner]"
        refused = await refusal(client, "cancel_experiment", ids=[id], author="[owner]")
        assert "author" in refused and "letters" in refused
        runner_lab.move(id, "cancelled", finished_at=2.0)
    assert cli.main(["cancel", "e-000000000000000", str(runner_lab.root)]) == 2
    assert "no experiment" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--as", "a\nb"], ["--as", ""], ["--as", "x" * 65], ["--role", "orchestrator"]])
def test_a_server_is_not_started_for_a_name_that_no_agent_can_have(runner_lab: FakeRunnerLab, options: list[str]) -> None:
    serve = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "serve", *options, str(runner_lab.root)]
    done = subprocess.run(serve, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "") and "--as" in done.stderr and done.stderr.count("\n") == 1
