"""Many agents in one lab at once, each with its own server or all with one: all are served, nothing is done twice, and who dies leaves nothing half done.

The tests hold the runner's lock, so nothing is trained here.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.acceptance.processes import processes
from tests.acceptance.serving import HERE, answer, server
from tests.server.mcp.listening import served_over_http
from tests.waiting import until

pytestmark = pytest.mark.anyio

AGENTS = 8
PROPOSALS = 96


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["stdio", "HTTP"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lab(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("labs") / "lab"
    create_lab(root, profile="tiny", budget_s=1.0)
    with runner_lock(LabPaths(root).state) as mine:
        assert mine
        yield root


@pytest.fixture(scope="module")
async def swarm(lab: Path, transport: str) -> AsyncIterator[list[Client]]:
    """Eight clients: each with a server process of its own, then all with one."""
    async with AsyncExitStack() as stack:
        if transport == "stdio":
            servers: list[StdioServerParameters | str] = [server(lab)] * AGENTS
        else:
            servers = [stack.enter_context(served_over_http(lab)).url] * AGENTS
        yield [await stack.enter_async_context(Client(each)) for each in servers]


def proposal(number: int) -> dict[str, Any]:
    """Code that only this number has."""
    edit = {"path": "train.py", "search": "SOFTCAP = 15.0", "replace": f"UNUSED = {number}\nSOFTCAP = 15.0"}
    return {"hypothesis": f"An unused constant {number} changes nothing.", "edits": [edit]}


def resolvable(root: Path, commits: set[str]) -> set[str]:
    """Those of `commits` that git has, and would keep through a garbage collection."""
    refs = subprocess.run(["git", "-C", root, "for-each-ref", "--format=%(objectname)"], capture_output=True, text=True, check=True)
    return commits & {id[:12] for id in refs.stdout.split()}


async def test_proposals_of_a_swarm_all_become_commits(lab: Path, swarm: list[Client]) -> None:
    commits: dict[int, str] = {}

    async def propose(number: int) -> None:
        proposed = await answer(swarm[number % AGENTS], "propose_patch", **proposal(number), author=f"agent-{number % AGENTS}")
        assert not proposed["duplicate"] and proposed["author"] == f"agent-{number % AGENTS}"
        commits[number] = proposed["commit"]

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in range(PROPOSALS):
                tasks.start_soon(propose, number)
        assert len(set(commits.values())) == PROPOSALS
        assert resolvable(lab, set(commits.values())) == set(commits.values())
        for number, client in zip(range(0, PROPOSALS, 12), swarm):  # proposed again to a server that may not have seen it
            twin = await answer(client, "propose_patch", **proposal(number))
            assert twin["duplicate"] and twin["commit"] == commits[number]


async def test_one_idempotency_key_is_one_launch_however_many_ask_at_once(swarm: list[Client]) -> None:
    launches = []

    async def launch(client: Client) -> None:
        launches.append(await answer(client, "launch_training", commit="champion", replicates=2, idempotency_key="the-only-one"))

    with anyio.fail_after(90):
        before = (await answer(swarm[0], "get_status"))["budget"]["reserved_s"]
        async with anyio.create_task_group() as tasks:
            for client in swarm:
                tasks.start_soon(launch, client)
        (first,) = [launched for launched in launches if not launched["repeated"]]
        assert len(launches) == AGENTS
        assert {(*launched["experiments"], *launched["seeds"]) for launched in launches} == {(*first["experiments"], *first["seeds"])}
        status = await answer(swarm[1], "get_status")
        assert {line["id"] for line in status["queued"]} == set(first["experiments"])
        assert status["budget"]["reserved_s"] - before == pytest.approx(first["reserved_s"], abs=0.1)
        author = status["queued"][0]["author"]  # of whoever was first: a mark of the session is no part of a repeated launch
        for id in first["experiments"]:
            await answer(swarm[2], "cancel_experiment", ids=[id], author=author)
        assert (await answer(swarm[3], "get_status"))["budget"]["reserved_s"] == before


async def test_what_one_server_writes_the_others_see_at_once(swarm: list[Client]) -> None:
    ended: list[dict[str, Any]] = []

    async def wait(client: Client, ids: list[str]) -> None:
        ended.append(await answer(client, "wait_for_experiments", ids=ids, timeout_s=45))

    with anyio.fail_after(90):
        note = await answer(swarm[0], "write_memory", kind="finding", text="Zirconium: written here, read there.")
        for client in swarm[1:]:
            hits = await answer(client, "search_memory", query="zirconium")
            assert [memory["id"] for memory in hits["memories"]] == [note["id"]]
        launched = await answer(swarm[1], "launch_training", commit="champion", author="one")
        async with anyio.create_task_group() as tasks:
            for client in swarm[2:5]:
                tasks.start_soon(wait, client, launched["experiments"])
            for client in swarm[5:]:
                status = await answer(client, "get_status")
                assert [line["id"] for line in status["queued"]] == launched["experiments"]
            await answer(swarm[0], "cancel_experiment", ids=[launched["experiments"][0]], author="one")
        assert [(wait["done"], wait["experiments"][0]["state"]) for wait in ended] == [(True, "cancelled")] * 3


WAITING = """
import sys, anyio
from mcp import Client
from tests.acceptance.serving import answer, server

async def note_progress(*_):
    print(id, flush=True)

async def main():
    global id
    async with Client(server(sys.argv[1])) as client:
        (id,) = (await answer(client, "launch_training", commit="champion", author="one"))["experiments"]
        await client.call_tool("wait_for_experiments", {"ids": [id], "timeout_s": 45}, progress_callback=note_progress)

anyio.run(main)
"""


async def test_a_client_killed_while_it_waits_takes_its_server_along_and_nothing_else(lab: Path, swarm: list[Client]) -> None:
    others = set(processes(lab, "serve"))
    environment = dict(os.environ) | {"PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", WAITING, str(lab)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as client:  # noqa: ASYNC220
        assert client.stdout is not None
        try:
            id = client.stdout.readline().strip()  # it waits
            (its,) = set(processes(lab, "serve")) - others
        finally:
            client.kill()
    until(lambda: its not in processes(lab, "serve"), 30)
    assert set(processes(lab, "serve")) == others
    with anyio.fail_after(60):
        status = await answer(swarm[0], "get_status")
        assert [line["id"] for line in status["queued"]] == [id] and status["budget"]["reserved_s"] > 0
        assert (await answer(swarm[1], "cancel_experiment", ids=[id], author="one"))["states"] == {id: "cancelled"}
        assert (await answer(swarm[2], "get_status"))["budget"]["reserved_s"] == 0
