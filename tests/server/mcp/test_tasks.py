"""Tasks of the extension `io.modelcontextprotocol/tasks`, by the SDK's own client: made, polled, cancelled, and known after the server's end."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp.client.extension import ClientExtension, ResultClaim, advertise
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, Request, RequestParams, Result
from pydantic import Field

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.mcp.tasks import EXTENSION, Handle
from autoresearch_mcp.server.roles import Identity, Role
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http

pytestmark = pytest.mark.anyio

NEVER = "e-000000000000000"


class TaskResult(Result):
    """A task instead of an answer."""

    result_type: Literal["task"] = "task"
    task_id: str = Field(alias="taskId")
    status: str
    status_message: str = Field(alias="statusMessage")
    poll_interval_ms: int = Field(alias="pollIntervalMs")


class Named(RequestParams):
    task_id: str = Field(alias="taskId", serialization_alias="taskId")
    input_responses: dict[str, Any] | None = Field(default=None, serialization_alias="inputResponses")


class AnyResult(Result):
    model_config = {"extra": "allow"}


class TaskTaker(ClientExtension):
    """Keeps the tasks that calls became, as a client that polls later."""

    identifier = EXTENSION

    def __init__(self) -> None:
        self.taken: list[TaskResult] = []

    def claims(self) -> Sequence[ResultClaim[Any]]:
        async def resolve(result: TaskResult, *_: Any) -> CallToolResult:
            self.taken.append(result)
            return CallToolResult(content=[], structured_content={"task": result.task_id})

        return [ResultClaim(result_type="task", model=TaskResult, resolve=resolve)]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


@pytest.fixture
def taker() -> TaskTaker:
    return TaskTaker()


@pytest.fixture
async def client(lab: FakeRunnerLab, taker: TaskTaker) -> AsyncIterator[Client]:
    async with Client(build_server(Lab(lab.root)), extensions=[taker]) as client:
        yield client


async def ask(client: Client, method: str, task: str) -> dict[str, Any]:
    params = Named(taskId=task, input_responses={} if method == "tasks/update" else None)
    request = Request[Named, str](method=method, params=params)
    answer = await client.session.send_request(request, AnyResult)  # type: ignore[arg-type]
    return answer.model_dump(by_alias=True, exclude_none=True)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    with anyio.fail_after(20):
        result = await client.call_tool(tool, arguments)
    assert not result.is_error and result.structured_content is not None, result.content
    return result.structured_content


async def launch(client: Client, **more: Any) -> dict[str, Any]:
    return await call(client, "launch_training", commit="champion", author="ada", **more)


async def test_a_wait_becomes_a_task_that_ends_with_the_tools_own_answer(client: Client, lab: FakeRunnerLab, taker: TaskTaker) -> None:
    (id,) = (await launch(client))["experiments"]
    task = (await call(client, "wait_for_experiments", ids=[id], timeout_s=45))["task"]
    assert taker.taken[0].status == "working" and id in task and taker.taken[0].poll_interval_ms >= 1000
    now = await ask(client, "tasks/get", task)
    assert (now["status"], now["taskId"], now["resultType"]) == ("working", task, "complete") and "result" not in now
    lab.finish(id, 1.5, "c")
    ended = await ask(client, "tasks/get", task)
    assert ended["status"] == "completed" and ended["createdAt"] <= ended["lastUpdatedAt"]
    answer = ended["result"]["structuredContent"]
    assert answer["done"] and [(row["id"], row["state"]) for row in answer["experiments"]] == [(id, "finished")]
    direct = await call(client, "wait_for_experiments", ids=[id])
    assert {**direct, "changed": []} == {**answer, "changed": []}, "what has ended is answered at once, without a task"
    assert len(taker.taken) == 1


async def test_a_launch_until_decided_is_a_task_whose_cancellation_ends_it_for_its_launcher_alone(
    client: Client, lab: FakeRunnerLab, taker: TaskTaker
) -> None:
    edits = [{"path": "train.py", "search": "WIDTH = 64", "replace": "WIDTH = 65"}]
    idea = await call(client, "propose_patch", hypothesis="A wider model fits better.", edits=edits, author="ada")
    task = (await call(client, "launch_training", commit=idea["commit"], until="decided", author="ada"))["task"]
    assert task.startswith("launch.all.") and (await ask(client, "tasks/get", task))["status"] == "working"
    assert [change.action for change in lab.ledger.recorded_changes(who="ada")] == ["launch_training", "propose_patch"]
    async with Client(build_server(Lab(lab.root), Identity("eve", Role.WORKER)), extensions=[TaskTaker()]) as eve:
        with pytest.raises(MCPError, match="launched by ada"):
            await ask(eve, "tasks/cancel", task)
    async with Client(build_server(Lab(lab.root), Identity("vic", Role.VIEWER)), extensions=[TaskTaker()]) as viewer:
        with pytest.raises(MCPError, match="takes the role worker"):
            await ask(viewer, "tasks/cancel", task)
    for _ in range(2):  # a second time changes nothing
        assert (await ask(client, "tasks/cancel", task))["resultType"] == "complete"
    ended = await ask(client, "tasks/get", task)
    assert ended["status"] == "completed" and "cancelled" in ended["result"]["structuredContent"]["note"]
    assert ended["result"]["structuredContent"]["until_decided"] in task


async def test_a_sweep_is_a_task_that_its_cancellation_ends(client: Client, taker: TaskTaker) -> None:
    asked = {"commit": "champion", "parameters": {"RATE": {"low": 0.01, "high": 0.1}}, "trials": 3, "sampler": "random"}
    task = (await call(client, "launch_sweep", **asked, author="ada"))["task"]
    assert task.startswith("sweep.all.") and "0 of 3 trials" in taker.taken[0].status_message
    assert (await ask(client, "tasks/get", task))["status"] == "working"
    for _ in range(2):
        assert (await ask(client, "tasks/cancel", task))["resultType"] == "complete"
    ended = await ask(client, "tasks/get", task)
    assert (ended["status"], ended["result"]["structuredContent"]["sweep"]["state"]) == ("completed", "cancelled")


async def test_a_cancelled_wait_ends_no_training(client: Client, lab: FakeRunnerLab) -> None:
    (id,) = (await launch(client))["experiments"]
    task = (await call(client, "wait_for_experiments", ids=[id]))["task"]
    await ask(client, "tasks/cancel", task)
    await ask(client, "tasks/update", task)
    assert [e.state for e in lab.ledger.open_experiments()] == ["queued"]


async def test_a_task_is_known_to_another_server_a_month_later(lab: FakeRunnerLab, client: Client) -> None:
    (id,) = (await launch(client))["experiments"]
    lab.finish(id, 1.5, "c")
    task = str(Handle("wait", "all", int(time.time()) - 30 * 86_400, (id,)))
    with served_over_http(lab.root) as served:
        async with Client(served.url, extensions=[TaskTaker()]) as another:
            old = await ask(another, "tasks/get", task)
    assert old["status"] == "completed" and old["result"]["structuredContent"]["experiments"][0]["id"] == id


@pytest.mark.parametrize("change", [lambda _: "x", lambda t: t.replace("wait", "sell"), lambda t: t[:-1], lambda t: t + "." + NEVER])
async def test_an_id_that_names_no_task_is_refused(client: Client, change: Callable[[str], str]) -> None:
    (id,) = (await launch(client))["experiments"]
    task = change((await call(client, "wait_for_experiments", ids=[id]))["task"])
    for method in ("tasks/get", "tasks/cancel", "tasks/update"):
        with pytest.raises(MCPError, match=r"no (such )?task") as refused:
            await ask(client, method, task)
        assert refused.value.code == -32602


async def test_a_client_that_takes_no_tasks_gets_none_and_may_ask_for_none(lab: FakeRunnerLab) -> None:
    async with Client(build_server(Lab(lab.root))) as plain:
        (id,) = (await launch(plain))["experiments"]
        waited = await call(plain, "wait_for_experiments", ids=[id], timeout_s=1)
        assert not waited["done"] and "task" not in waited
        with pytest.raises(MCPError) as refused:
            await ask(plain, "tasks/get", str(Handle("wait", "all", 1_700_000_000, (id,))))
        assert refused.value.code == -32021


async def test_wrong_arguments_and_waits_for_a_line_or_for_news_are_the_tools_own(
    client: Client, lab: FakeRunnerLab, taker: TaskTaker
) -> None:
    with anyio.fail_after(20):
        wrong = await client.call_tool("wait_for_experiments", {"ids": "nonsense nonsense"})
    assert wrong.is_error and not taker.taken
    (id,) = (await launch(client))["experiments"]
    assert not (await call(client, "wait_for_experiments", ids=[id], line="step 9", timeout_s=1))["done"]
    assert not (await call(client, "wait_for_experiments", timeout_s=1))["done"] and not taker.taken


async def test_a_server_says_that_it_makes_tasks(lab: FakeRunnerLab) -> None:
    async with Client(build_server(Lab(lab.root)), extensions=[advertise(EXTENSION)]) as client:
        assert client.server_capabilities is not None and EXTENSION in (client.server_capabilities.extensions or {})
