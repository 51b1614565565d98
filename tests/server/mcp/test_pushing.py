"""News that are pushed to a client that listens, over HTTP and stdio, in both eras."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.subscriptions import ResourceUpdated, Subscription
from mcp.shared.exceptions import MCPError

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.bridge import Bridge
from autoresearch_mcp.server.mcp.pushing import Pushing
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.pipe import SERVE

pytestmark = pytest.mark.anyio

IDENTITY = ("-c", "user.name=the owner", "-c", "user.email=owner@example.com")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


def pipe(lab: FakeRunnerLab) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-W", "error", "-c", SERVE, str(lab.root)], cwd=Path.cwd())


@asynccontextmanager
async def connected(lab: FakeRunnerLab, transport: str) -> AsyncIterator[Client]:
    if transport == "stdio":
        async with Client(pipe(lab)) as client:
            yield client
    else:
        with served_over_http(lab.root) as served:
            async with Client(served.url) as client:
                yield client


async def next_uri(events: Subscription) -> str:
    with anyio.fail_after(20):
        event = await anext(aiter(events))
    assert isinstance(event, ResourceUpdated)
    return event.uri


@pytest.mark.parametrize("transport", ["HTTP", "stdio"])
async def test_an_end_and_a_new_champion_are_pushed_to_who_listens(lab: FakeRunnerLab, transport: str) -> None:
    other = Lab(lab.root)
    (id,) = other.launch_training("champion", "ada", 1).experiments
    uri = f"experiment://{id}"
    async with connected(lab, transport) as client, client.listen(resource_subscriptions=[uri, "lab://champion", "nonsense://x"]) as events:
        lab.finish(id, 1.5, "c")  # by another process, as far as the server knows
        assert await next_uri(events) == uri
        (contents,) = (await client.read_resource(uri)).contents
        assert '"finished"' in contents.text  # type: ignore[union-attr]
        commit_as_owner(lab.root, "WIDTH = 1\n")
        other.adopt("mine", "the owner", "a test")
        assert await next_uri(events) == "lab://champion"
    other.close()


def commit_as_owner(root: Path, code: str) -> None:
    """Commit a train.py on a branch `mine`."""
    for command in ("checkout -q -b mine", "commit -q --all --message mine"):
        if command.startswith("commit"):
            (root / "train.py").write_text(code, encoding="utf-8")
        subprocess.run(["git", "-C", str(root), *IDENTITY, *command.split()], check=True)


async def test_an_older_client_subscribes_over_stdio_and_stops(lab: FakeRunnerLab) -> None:
    other, heard = Lab(lab.root), anyio.Event()
    uris: list[str] = []

    async def keep(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/resources/updated":
            uris.append(str(message.params.uri))
            heard.set()

    (id,) = other.launch_training("champion", "ada", 1).experiments
    with anyio.fail_after(30):
        async with Client(pipe(lab), mode="legacy", message_handler=keep) as client:
            capabilities = client.server_capabilities
            assert capabilities is not None and capabilities.resources is not None and capabilities.resources.subscribe
            with pytest.warns(Warning, match="listen"):
                await client.subscribe_resource(f"experiment://{id}")
                await client.subscribe_resource("lab://status")
                await client.unsubscribe_resource("lab://status")
            await client.call_tool("get_status", {})
            lab.finish(id, 1.5, "c")
            await heard.wait()
    assert set(uris) == {f"experiment://{id}"}
    other.close()


async def test_a_stream_follows_a_bounded_number_of_resources(lab: FakeRunnerLab) -> None:
    async with connected(lab, "stdio") as client:
        with pytest.raises(MCPError, match="at most 200"):
            async with client.listen(resource_subscriptions=[f"experiment://e-{n:015}" for n in range(201)]):
                pass


async def test_what_changed_after_the_first_look_is_pushed_however_late_the_second_one_is(lab: FakeRunnerLab) -> None:
    other = Lab(lab.root)
    (id,) = other.launch_training("champion", "ada", 1).experiments
    pushing, uri, pushed = Pushing(Bridge(other)), f"experiment://{id}", anyio.Event()
    known = await pushing._first_look([uri])
    lab.finish(id, 1.5, "c")

    async def publish(changed: str) -> None:
        assert changed == uri
        pushed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pushing._follow, lambda: [uri], publish, known)
        with anyio.fail_after(20):
            await pushed.wait()
        tasks.cancel_scope.cancel()
    other.close()


async def test_who_follows_what_waits_has_a_runner_started(lab: FakeRunnerLab, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Lab(lab.root)
    (id,) = other.launch_training("champion", "ada", 1).experiments
    woken = list[bool]()
    monkeypatch.setattr(other._core, "wake", lambda *_: bool(woken.append(True)))
    pushing = Pushing(Bridge(other))
    await pushing._first_look([f"experiment://{id}"])
    assert woken
    woken.clear()
    lab.finish(id, 1.5, "c")
    await pushing._first_look([f"experiment://{id}"])
    assert not woken
    other.close()
