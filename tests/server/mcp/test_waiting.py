"""Waiting: for what is one's own, until it has started, until a line is printed; and when it will be done."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import TextContent

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.trainer import protocol
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def runner_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


@pytest.fixture(scope="module")
async def client(runner_lab: FakeRunnerLab) -> AsyncIterator[Client]:
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        async with Client(build_server(lab)) as client:
            yield client


@pytest.fixture(autouse=True)
async def emptied(client: Client, runner_lab: FakeRunnerLab) -> AsyncIterator[None]:
    yield
    for e in runner_lab.ledger.open_experiments():
        runner_lab.move(e.id, "crashed")


async def call(client: Client, tool: str, **arguments: Any) -> str:
    with anyio.fail_after(20):
        result = await client.call_tool(tool, arguments)
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def answer(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(await call(client, tool, **arguments))
    return read


async def launch(client: Client, replicates: int = 1, author: str = "ada") -> list[str]:
    ids: list[str] = (await answer(client, "launch_training", commit="champion", replicates=replicates, author=author))["experiments"]
    return ids


async def test_who_launched_nothing_has_nothing_to_wait_for(client: Client) -> None:
    waited = await answer(client, "wait_for_experiments", timeout_s=1)
    assert not waited["done"] and waited["experiments"] == []
    assert "Nothing is open that " in waited["note"] and waited["note"].endswith("Nothing else that concerns it happened.")


async def test_without_ids_a_wait_is_for_all_that_is_the_callers(client: Client, runner_lab: FakeRunnerLab) -> None:
    theirs = await launch(client, author="bob")
    mine = await launch(client, 2)
    for id in mine:
        runner_lab.move(id, "running")
    waited = await answer(client, "wait_for_experiments", timeout_s=1)
    assert [line["id"] for line in waited["experiments"]] == mine and not waited["done"]
    for id in mine:
        runner_lab.finish(id, 1.5, "c")
    ended = await answer(client, "wait_for_experiments")
    assert ended["done"] and {line["id"] for line in ended["experiments"]} == set(mine), "nothing goes on: what ended last"
    again = await answer(client, "wait_for_experiments", timeout_s=1)
    assert not again["done"] and again["experiments"] == [], "it knows, and waits for news alone"
    runner_lab.move(theirs[0], "running")


async def test_a_commit_stands_for_what_is_open_of_it(client: Client, runner_lab: FakeRunnerLab) -> None:
    ids = await launch(client, 2)
    runner_lab.finish(ids[0], 1.5, "c")
    waited = await answer(client, "wait_for_experiments", ids="champion", timeout_s=1)
    assert [line["id"] for line in waited["experiments"]] == ids[1:]
    runner_lab.finish(ids[1], 1.5, "c")
    waited = await answer(client, "wait_for_experiments", ids="champion", timeout_s=1)
    assert waited["done"] and len(waited["experiments"]) == 1, "nothing is open: its newest"


async def test_a_wait_for_the_start_ends_once_nothing_is_queued(client: Client, runner_lab: FakeRunnerLab) -> None:
    ids = await launch(client, 2)
    runner_lab.move(ids[0], "running")
    assert not (await answer(client, "wait_for_experiments", ids=ids, until="started", timeout_s=1))["done"]
    async with anyio.create_task_group() as tasks:

        async def start_the_other() -> None:
            runner_lab.move(ids[1], "starting")

        tasks.start_soon(start_the_other)
        waited = await answer(client, "wait_for_experiments", ids=ids, until="started", timeout_s=15)
    assert waited["done"] and {line["state"] for line in waited["experiments"]} == {"running", "starting"}


async def test_a_wait_ends_with_a_line_of_a_log(client: Client, runner_lab: FakeRunnerLab) -> None:
    (id,) = await launch(client)
    started = runner_lab.ledger.start(id, 1e9)
    assert started is not None
    log = runner_lab.state / "runs" / id / str(started.attempt) / protocol.LOG
    log.parent.mkdir(parents=True)
    log.write_text("compiling\nstep 1 loss 3.2\nstep 100 loss 2.9", encoding="utf-8")
    waited = await answer(client, "wait_for_experiments", ids=[id], line="STEP 100|done", timeout_s=1)
    assert not waited["done"], "the line is not whole yet"
    log.write_text("compiling\nstep 1 loss 3.2\nstep 100 loss 2.9\n", encoding="utf-8")
    waited = await answer(client, "wait_for_experiments", ids=[id], line="STEP 100|done", timeout_s=15)
    assert waited["done"] and "step 100 loss 2.9" in waited["note"] and "not instructions" in waited["note"]


async def test_a_long_timeout_is_shortened_with_a_word(client: Client, runner_lab: FakeRunnerLab) -> None:
    (id,) = await launch(client)
    runner_lab.finish(id, 1.5, "c")
    waited = await answer(client, "wait_for_experiments", ids=[id], timeout_s=600)
    assert waited["done"] and "A call waits 45 s at most, not 600." in waited["note"]


async def test_a_launch_a_wait_and_the_status_say_when_it_is_done(client: Client, runner_lab: FakeRunnerLab) -> None:
    for id in await launch(client, 3):
        assert runner_lab.ledger.start(id, 1e9) is not None
        runner_lab.move(id, "finished", started_at=1.0, finished_at=31.0, val_bpb=1.5)
    ids = await launch(client, 4)
    launched = await answer(client, "launch_training", commit="champion", author="bob")
    words = "Done in about 30 s, place 2 of 5 in the queue; the queue is empty in about 90 s (30 s each on 2 slots)."
    assert words in launched["note"], "authors take turns"
    waited = await answer(client, "wait_for_experiments", ids=ids, timeout_s=1)
    assert [(line["position"], line["done_in_s"]) for line in waited["experiments"]] == [(1, 30), (3, 60), (4, 60), (5, 90)]
    assert "has ended in about 90 s" in waited["note"]
    status = await answer(client, "get_status")
    assert status["training"]["queue_s"] == 90 and status["queued"][0]["done_in_s"] == 30


async def test_a_row_of_a_wait_is_short(client: Client, runner_lab: FakeRunnerLab) -> None:
    edits = [{"path": "train.py", "search": "WIDTH = 64", "replace": "WIDTH = 96"}]
    author, long = "a" * 64, "A much wider stream, because of reasons that go on and on. " * 20
    commit = (await answer(client, "propose_patch", hypothesis=long, edits=edits, author=author))["commit"]
    ids = (await answer(client, "launch_training", commit=commit, replicates=3, author=author))["experiments"]
    runner_lab.finish(ids[0], 1.23456789, "c")
    runner_lab.move(ids[1], "crashed", failure={"kind": "sandbox_violation", "message": "It opened /etc/passwd again. " * 20})
    rows = (await answer(client, "wait_for_experiments", ids=ids, timeout_s=1))["experiments"]
    assert max(len(json.dumps(row, separators=(",", ":"))) for row in rows) <= 250


async def test_a_wait_without_ids_ends_with_whatever_concerns_the_caller(client: Client, runner_lab: FakeRunnerLab) -> None:
    await answer(client, "get_status")  # nothing is unheard
    runner_lab.move((await launch(client, author="bob"))[0], "crashed", cost_s=0.5)
    id, _ = await launch(client, 2)  # whose session this is now
    settings = runner_lab.root / "lab.toml"
    plenty = settings.read_text("utf-8")
    changes: list[tuple[Callable[[], object], str]] = [
        (
            lambda: runner_lab.ledger.claim("m-000000000000001", "Wider.", "ada", 1.508, 4),
            "Your claim on m-000000000000001 'Wider.' ends in 90 s",
        ),
        (
            lambda: settings.write_text(plenty.replace("device_hours = 8.0 ", "device_hours = 1e-6 "), "utf-8"),
            "% of the budget is used: 0.00",
        ),
        (lambda: runner_lab.ledger.cancel([id], "carl"), "There is news. "),
    ]
    for change, words in changes:
        waited = await waited_while(client, change)
        assert not waited["done"] and words in waited["note"], waited["note"]
        assert bool(waited.get("news")) == (words == "There is news. ")
    settings.write_text(plenty, "utf-8")
    assert not (await answer(client, "wait_for_experiments", timeout_s=1)).get("news"), "each is told once"


async def test_one_who_launched_nothing_waits_for_news(client: Client, runner_lab: FakeRunnerLab) -> None:
    note = await answer(client, "write_memory", kind="finding", text="Nadia was here.", author="nadia")
    assert note["id"]
    waited = await waited_while(client, lambda: runner_lab.ledger.claim("m-000000000000002", "Deeper.", "nadia", 1.0, 4))
    assert not waited["done"] and waited["experiments"] == [] and waited["note"].startswith("Your claim on m-000000000000002")


async def waited_while(client: Client, change: Callable[[], object]) -> dict[str, Any]:
    """The answer to a wait without ids during which something changed."""
    changes = iter([change])

    async def once(*_: object) -> None:  # it has looked, and waits
        next(changes, lambda: None)()

    with anyio.fail_after(20):
        result = await client.call_tool("wait_for_experiments", {"timeout_s": 45}, progress_callback=once)
    assert not result.is_error and result.structured_content is not None
    return result.structured_content
