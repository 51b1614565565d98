"""What only the HTTP transport has: who may come in, where it listens, how it ends. The rest is in test_surface, over it too."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from autoresearch_mcp.server.mcp import http
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.pipe import ENVELOPE, NO_MESSAGES

TOKEN = "correct-horse-battery-staple"
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


@pytest.fixture(scope="module")
def runner_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


@pytest.fixture(scope="module")
def guarded(runner_lab: FakeRunnerLab) -> Iterator[str]:
    """The URL of a server that asks for a token."""
    with served_over_http(runner_lab.root, AUTORESEARCH_TOKEN=TOKEN) as server:
        yield server.url


def ask(url: str, method: str = "POST", body: str | None = None, path: str = "/mcp", **headers: str) -> tuple[int, str, dict[str, str]]:
    """What a client without manners is answered: status, text and headers."""
    where = urlsplit(url)
    usual = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with contextlib.closing(HTTPConnection(where.hostname or "", where.port, timeout=10)) as connection:
        connection.request(method, path, body, usual | {name.replace("_", "-"): value for name, value in headers.items()})
        with connection.getresponse() as answer:
            return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}


def post(url: str, body: object = LIST, **headers: str) -> tuple[int, str]:
    """Status and text of the answer to a message."""
    return ask(url, body=json.dumps(body), **headers)[:2]


@pytest.fixture(scope="module")
def open_url(runner_lab: FakeRunnerLab) -> Iterator[str]:
    """The URL of a server that asks for no token, behind a proxy with a name, open to the pages of one origin."""
    options = ("--allow-host", "Lab.Example", "--allow-origin", "https://Inspector.example/")
    with served_over_http(runner_lab.root, options=options) as server:
        yield server.url


@pytest.mark.parametrize("host", ["lab.example", "lab.example:443", "LAB.Example", "Localhost:1", "127.0.0.1", "localhost:1", "[::1]"])
def test_the_host_of_a_proxy_is_accepted_where_the_owner_says_so(open_url: str, host: str) -> None:
    assert post(open_url, Host=host)[0] == 200
    assert post(open_url, Host="lab.example.attacker.example")[0] == 421


def test_pages_of_an_origin_may_call_where_the_owner_says_so(open_url: str, guarded: str) -> None:
    preflight = {"Access_Control_Request_Headers": "authorization, mcp-method"}
    for method in ("POST", "GET", "DELETE"):
        preflight["Access_Control_Request_Method"] = method
        status, _, headers = ask(open_url, "OPTIONS", Origin="https://inspector.example", **preflight)
        assert (status, headers["access-control-allow-origin"]) == (200, "https://inspector.example")
        assert "mcp-method" in headers["access-control-allow-headers"] and method in headers["access-control-allow-methods"]
    assert post(open_url, Origin="https://inspector.example")[0] == 200
    assert post(open_url, Origin="https://attacker.example")[0] == 403
    assert "access-control-allow-origin" not in ask(guarded, "OPTIONS", Origin="https://inspector.example", **preflight)[2]


def test_pages_of_every_origin_may_call_where_the_owner_says_so_and_they_have_the_token(runner_lab: FakeRunnerLab) -> None:
    with served_over_http(runner_lab.root, options=("--allow-origin", "*"), AUTORESEARCH_TOKEN=TOKEN) as server:
        status, _, headers = ask(server.url, body=json.dumps(LIST), Origin="https://any.example", Authorization=f"Bearer {TOKEN}")
        assert (status, headers["access-control-allow-origin"]) == (200, "*")
        assert post(server.url, Origin="https://any.example")[0] == 401
        assert post(server.url, Host="attacker.example", Authorization=f"Bearer {TOKEN}")[0] == 421
    assert "AUTORESEARCH_TOKEN" in refused(runner_lab.root, "127.0.0.1:0", ("--allow-origin", "*"))


def call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}


@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("write_memory", {"kind": "finding", "text": "Cut short: \ud83d", "tags": ["cut"]}),
        ("search_memory", {"query": "\udc00 half"}),
        ("read_file", {"path": "\ud83d.py"}),
        ("propose_patch", {"hypothesis": "Half an emoji \ud83d", "files": {"train.py": "A = '\ud83d'\n", "\ud83d": "x"}}),
        ("query_experiments", {"sql": "SELECT '\ud83d' AS x", "\ud83d": 1}),
    ],
)
def test_half_a_character_is_lost_and_not_the_call(open_url: str, era: str, tool: str, arguments: dict[str, Any]) -> None:
    message = call(tool, arguments)
    if era == "2026-07-28":
        message["params"]["_meta"] = ENVELOPE
    status, answer = post(open_url, message, MCP_Protocol_Version=era, Mcp_Method="tools/call", Mcp_Name=tool)
    assert status == 200 and '"result"' in answer and "Internal error" not in answer


@pytest.mark.parametrize("era", ["2025-03-26", "2025-11-25"])
@pytest.mark.parametrize(("message", "code", "id"), NO_MESSAGES)
def test_what_is_no_message_is_refused_with_the_reason(open_url: str, era: str, message: str, code: int, id: int | str | None) -> None:
    status, text, _ = ask(open_url, body=message, MCP_Protocol_Version=era)
    answer = json.loads(text)
    assert (status, answer["error"]["code"], answer["id"]) == (400, code, id)
    assert "pydantic" not in text and len(answer["error"]["message"]) < 200


def test_what_is_a_message_is_not_refused(open_url: str) -> None:
    for message in ({"method": "notifications/initialized"}, {"id": "a", "result": {}}, {"id": 1, "error": {"code": 1, "message": "no"}}):
        assert post(open_url, {"jsonrpc": "2.0"} | message)[0] == 202
    for id in (0, -1, "", "a"):
        assert json.loads(post(open_url, LIST | {"id": id, "params": None})[1].removeprefix("event: message\r\ndata: "))["id"] == id


def test_no_stream_is_opened_on_which_nothing_would_come(open_url: str, guarded: str) -> None:
    status, _, headers = ask(open_url, "GET")
    assert (status, headers["allow"]) == (405, "POST")
    for method in ("OPTIONS", "DELETE", "PUT", "HEAD"):
        status, _, headers = ask(open_url, method)
        assert (status, headers["allow"]) == (405, "POST"), method
    assert ask(guarded, "GET")[0] == 401
    path = "/.well-known/oauth-authorization-server/mcp"
    assert ask(guarded, "GET", path=path)[0] == 404 and ask(open_url, "GET", path=path)[0] == 404


def test_an_upload_that_was_dropped_leaves_no_trace(runner_lab: FakeRunnerLab) -> None:
    with served_over_http(runner_lab.root) as server:
        where = urlsplit(server.url)
        head = "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        for _ in range(3):
            with socket.create_connection((where.hostname or "", where.port or 0)) as dropped:
                dropped.sendall(head.encode())
        assert post(server.url)[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.communicate(timeout=20)[1] == ""


def refused(root: Path, address: str, options: Sequence[str] = (), **environment: str) -> str:
    """Why a server of the lab does not start there."""
    with served_over_http(root, address, options, **environment) as server:
        _, error = server.process.communicate(timeout=20)
        assert (server.first_line, server.process.returncode) == ("", 2)
        assert error.startswith("autoresearch-mcp: ") and error.count("\n") == 1, error
        return error


def test_the_scheme_before_the_token_may_be_written_in_any_case(guarded: str) -> None:
    for scheme in ("bearer", "BEARER"):
        assert post(guarded, Authorization=f"{scheme} {TOKEN}")[0] == 200


@pytest.mark.anyio
async def test_small_answers_leave_at_once() -> None:
    """asyncio sets TCP_NODELAY only where the listening socket names its protocol; without it each call waits 40 ms for an ACK."""
    options = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        options.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with http.listen("127.0.0.1", 0) as listening:
        async with await asyncio.start_server(accepted, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            assert await reader.read() == b""
            writer.close()
    assert options and options[0] != 0


@pytest.mark.anyio
async def test_endless_sql_of_one_client_keeps_no_other_client_waiting(open_url: str) -> None:
    numbers = json.dumps(list(range(200)))
    endless = "SELECT count(*) FROM " + ", ".join(f"json_each('{numbers}') j{n}" for n in range(4))
    answered: list[str] = []

    async def hog(client: Client) -> None:
        result = await client.call_tool("query_experiments", {"sql": endless})
        assert result.is_error
        answered.append("endless")

    with anyio.fail_after(60):
        async with Client(open_url) as first, Client(open_url) as second, anyio.create_task_group() as tasks:
            ordinary = {"sql": "SELECT count(*) AS n FROM experiments"}
            assert not (await second.call_tool("query_experiments", ordinary)).is_error  # imports what the first one needs
            for _ in range(6):
                tasks.start_soon(hog, first)
            assert not (await second.call_tool("query_experiments", ordinary)).is_error
            assert not (await second.call_tool("get_status", {})).is_error
            answered.append("ordinary")
    assert answered == ["ordinary", *["endless"] * 6]


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}])
def test_a_request_without_the_token_gets_nothing(guarded: str, given: dict[str, str]) -> None:
    status, body = post(guarded, **given)
    assert status == 401
    assert "AUTORESEARCH_TOKEN" in body and "get_status" not in body and TOKEN not in body


@pytest.mark.anyio
async def test_a_request_with_the_token_is_served(guarded: str) -> None:
    with anyio.fail_after(20):
        async with (
            create_mcp_http_client(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
            Client(streamable_http_client(guarded, http_client=http)) as client,
        ):
            assert not (await client.call_tool("get_status", {})).is_error


@pytest.mark.parametrize(
    ("headers", "status"), [({}, 200), ({"Host": "attacker.example"}, 421), ({"Origin": "https://attacker.example"}, 403)]
)
def test_a_page_in_a_browser_cannot_call(guarded: str, headers: dict[str, str], status: int) -> None:
    assert post(guarded, Authorization=f"Bearer {TOKEN}", **headers)[0] == status


def test_a_huge_request_is_refused(guarded: str) -> None:
    assert post(guarded, "x" * 5_000_000, Authorization=f"Bearer {TOKEN}")[0] == 413


def test_beyond_this_machine_a_token_is_needed(runner_lab: FakeRunnerLab) -> None:
    assert "AUTORESEARCH_TOKEN" in refused(runner_lab.root, "0.0.0.0:0")
    error = refused(runner_lab.root, "127.0.0.1:0", AUTORESEARCH_TOKEN="too short")
    assert "16 or more" in error and "too short" not in error
    with served_over_http(runner_lab.root, "0.0.0.0:0", AUTORESEARCH_TOKEN=TOKEN) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert (post(url)[0], post(url, Authorization=f"Bearer {TOKEN}")[0]) == (401, 200)


def test_an_address_that_cannot_be_served_is_named(runner_lab: FakeRunnerLab) -> None:
    assert "HOST:PORT" in refused(runner_lab.root, "127.0.0.1:http")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in refused(runner_lab.root, address)
    assert "lab.toml" in refused(runner_lab.root / "nowhere", "127.0.0.1:0")


@pytest.mark.anyio
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_quickly_and_quietly_in_the_middle_of_a_wait(runner_lab: FakeRunnerLab, number: signal.Signals) -> None:
    waiting = anyio.Event()

    async def heard(*_: Any) -> None:
        waiting.set()

    async def wait(client: Client, id: str) -> None:
        with anyio.move_on_after(10), contextlib.suppress(Exception):  # whatever a client makes of a cut connection
            await client.call_tool("wait_for_experiments", {"ids": [id], "timeout_s": 45}, progress_callback=heard)

    with served_over_http(runner_lab.root) as server:
        with anyio.fail_after(30):
            async with Client(server.url) as client:
                launched = await client.call_tool("launch_training", {"commit": "champion"})
                (id,) = (launched.structured_content or {})["experiments"]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(wait, client, id)
                    await waiting.wait()
                    server.process.send_signal(number)
                    _, errors = await anyio.to_thread.run_sync(lambda: server.process.communicate(timeout=8))
        assert (server.process.returncode, "Traceback" in errors) == (0, False), errors


@pytest.mark.anyio
async def test_a_client_that_vanishes_in_the_middle_of_a_call_leaves_the_server_to_the_others(runner_lab: FakeRunnerLab) -> None:
    with served_over_http(runner_lab.root) as server, anyio.fail_after(40):
        async with Client(server.url) as client:
            launched = await client.call_tool("launch_training", {"commit": "champion"})
            (id,) = (launched.structured_content or {})["experiments"]
            with subprocess.Popen([sys.executable, "-c", VANISHING, server.url, id], stdout=subprocess.PIPE) as other:  # noqa: ASYNC220
                assert other.stdout is not None and await anyio.to_thread.run_sync(other.stdout.readline) == b"waiting\n"
                other.kill()
            cancelled = await client.call_tool("cancel_experiment", {"ids": [id]})
            assert (cancelled.structured_content or {})["states"] == {id: "cancelled"}


VANISHING = """
import sys, anyio
from mcp import Client

async def say(*_):
    print("waiting", flush=True)

async def main():
    async with Client(sys.argv[1]) as client:
        await client.call_tool("wait_for_experiments", {"ids": [sys.argv[2]], "timeout_s": 45}, progress_callback=say)

anyio.run(main)
"""


def test_an_idle_connection_stays_for_longer_than_clients_keep_it(open_url: str) -> None:
    """httpx keeps one for 5 s, as uvicorn does: a request that met its end ended the SDK's client."""
    where = urlsplit(open_url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as connection:
        connection.sendall(f"GET /nowhere HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404")
        connection.settimeout(httpx2.Limits().keepalive_expiry + 0.5)
        with pytest.raises(TimeoutError):  # nothing is said, and nothing ends
            while connection.recv(1 << 16):
                pass
