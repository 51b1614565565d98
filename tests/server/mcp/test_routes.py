"""Every route beside the page with every role and none, tokens that open nothing, and limits on those who ask."""

import contextlib
import json
import re
import secrets
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message, Receive, Scope, Send

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger.access import digest
from autoresearch_mcp.server.mcp import front
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.mcp.bridge import CALLER
from autoresearch_mcp.server.mcp.door import Door
from autoresearch_mcp.server.mcp.front import Guests
from autoresearch_mcp.server.mcp.git_door import GitDoor
from autoresearch_mcp.server.mcp.limits import BodyTimeout, RateLimit
from autoresearch_mcp.server.mcp.metrics import MetricsDoor, exposition
from autoresearch_mcp.server.mcp.try_door import TryDoor
from autoresearch_mcp.server.roles import Identity, Role
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.test_http import LIST, TOKEN, ask
from tests.server.mcp.test_roles import ALLOWED, PROMPTS

pytestmark = pytest.mark.anyio

VIEWERS = {Role.VIEWER, Role.WORKER, Role.ORCHESTRATOR, Role.OWNER}
WORKERS = VIEWERS - {Role.VIEWER}
ROUTES = [  # method, path, body, who may; the rest is refused with 401 or 403, and nobody else's answer is either
    ("POST", "/mcp", json.dumps(LIST), VIEWERS),
    ("GET", "/mcp", None, VIEWERS),
    ("GET", "/git/info/refs?service=git-upload-pack", None, VIEWERS),
    ("GET", "/git/info/refs?service=git-receive-pack", None, WORKERS),
    ("POST", "/git/git-receive-pack", "0000", WORKERS),
    ("POST", "/try", "{}", WORKERS),
    ("GET", "/metrics", None, VIEWERS),
    ("GET", "/anything", None, VIEWERS),
    ("GET", "/.well-known/oauth-protected-resource", None, {*VIEWERS, None}),
]


@dataclass
class Guarded:
    """A server that asks for tokens."""

    lab: FakeRunnerLab
    url: str
    tokens: dict[Role | None, str]
    resources: list[str]  # of every kind that the server lists

    def ask(self, role: Role | None, method: str, path: str, body: str | None = None) -> tuple[int, str, dict[str, str]]:
        given = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return ask(self.url, method, body, path, **given)

    def call(self, role: Role | None, method: str, **params: object) -> tuple[int, dict[str, object]]:
        status, text, _ = self.ask(role, "POST", "/mcp", json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        return status, json.loads(text[text.index("{") :]) if "{" in text else {}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    for lab in make_runner_lab(tmp_path_factory.mktemp("labs") / "lab"):
        tokens: dict[Role | None, str] = {role: lab.ledger.add_token(role.value, role, None) for role in VIEWERS - {Role.OWNER}}
        with contextlib.closing(Lab(lab.root)) as opened:
            (experiment,) = opened.launch_training("champion", "ada", 1).experiments
            resources = listed(opened, experiment)
        with served_over_http(lab.root, AUTORESEARCH_TOKEN=TOKEN) as server:
            yield Guarded(lab, server.url, tokens | {Role.OWNER: TOKEN}, resources)


@pytest.mark.parametrize("role", [*Role, None])
def test_every_route_knows_who_may(guarded: Guarded, role: Role | None) -> None:
    for method, path, body, allowed in ROUTES:
        status, text, headers = guarded.ask(role, method, path, body)
        assert (status not in (401, 403)) == (role in allowed), (path, role, status)
        if status == 403:
            assert "takes the role worker" in text and 'scope="worker"' in headers.get("www-authenticate", 'scope="worker"')
        if status == 401 and not path.startswith("/git"):
            assert headers["www-authenticate"].startswith("Bearer resource_metadata=") and 'scope="worker"' in headers["www-authenticate"]


@pytest.mark.parametrize("role", [*Role, None])
def test_every_tool_prompt_and_resource_knows_who_may(guarded: Guarded, role: Role | None) -> None:
    before = guarded.lab.ledger.recorded_changes()
    for name in TOOLS:
        status, answer = guarded.call(role, "tools/call", name=name, arguments={"of no tool": 1})
        if role is None:
            assert status == 401
        else:
            assert ("takes the role" in json.dumps(answer)) == (name not in ALLOWED[role]), name
    for name in ("worker", "orchestrator"):
        status, answer = guarded.call(role, "prompts/get", name=name)
        assert status == 401 if role is None else ("takes the role" in json.dumps(answer)) == (name not in PROMPTS[role])
    for uri in guarded.resources:
        status, answer = guarded.call(role, "resources/read", uri=uri)
        assert status == 401 if role is None else "contents" in answer.get("result", {}), uri  # type: ignore[operator]
    for method in ("resources/list", "resources/templates/list", "tools/list", "prompts/list", "server/discover"):
        assert (guarded.call(role, method)[0] == 401) == (role is None), method
    assert guarded.lab.ledger.recorded_changes() == before


def test_no_route_is_left_out() -> None:
    doors = {GitDoor, MetricsDoor, TryDoor}
    assert {*Door.__subclasses__()} == doors  # a new one gets its line in ROUTES too
    assert {door.path for door in doors} <= {f"/{path.split('/')[1].partition('?')[0]}" for _, path, _, _ in ROUTES}


def test_a_token_that_is_none_opens_nothing(guarded: Guarded) -> None:
    valid = guarded.tokens[Role.WORKER]
    ended = guarded.lab.ledger.add_token("ended", Role.OWNER, time.time() - 1)
    gone = guarded.lab.ledger.add_token("gone", Role.OWNER, None)
    guarded.lab.ledger.revoke_token("gone")
    wrong = [
        ended,
        gone,
        valid[:-1],
        valid[:20],
        f"{valid}x",
        f"{valid} {valid}",
        digest(valid),
        valid.upper(),
        "",
        "Bearer",
        "a.b.c",
        "é" * 40,
    ]
    answers = [ask(guarded.url, body=json.dumps(LIST), Authorization=f"Bearer {token}".encode().decode("latin-1")) for token in wrong]
    for token, (status, text, headers) in zip(wrong, answers, strict=True):
        assert status == 401 and 'error="invalid_token"' in headers["www-authenticate"], token
        assert (text, headers | {"date": ""}) == (answers[0][1], answers[0][2] | {"date": ""}), token  # it doesn't tell which is wrong how
    where = urlsplit(guarded.url)
    for token in (f"{valid[:9]}\n{valid[9:]}", f"{valid[:9]}\r\nX: {valid[9:]}", f"{valid}\0", "x" * (1 << 20)):
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=10) as raw, contextlib.suppress(ConnectionError):
            raw.sendall(f"GET /anything HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            assert raw.recv(100).split()[1:2] in ([b"400"], [b"401"], [b"431"], []), token[:50]
    assert guarded.ask(Role.WORKER, "POST", "/mcp", json.dumps(LIST))[0] == 200


async def test_a_refused_token_goes_the_same_way_whatever_is_wrong_with_it(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, valid = guarded.lab.ledger, guarded.tokens[Role.WORKER]
    late, revoked = ledger.add_token("slow", Role.OWNER, time.time() - 1), ledger.add_token("left", Role.OWNER, None)
    ledger.revoke_token("left")
    way: list[object] = []

    def hashed(secret: str) -> str:
        way.append("hashed")
        return digest(secret)

    def compared(a: str, b: str) -> bool:
        way.append(("compared in constant time", len(a), len(b)))
        return secrets.compare_digest(a, b)

    with contextlib.closing(Lab(guarded.lab.root)) as lab:
        guests = Guests(lab, TOKEN)
        assert await guests.identify(valid) == Identity("worker", Role.WORKER)
        monkeypatch.setattr(front, "digest", hashed)
        monkeypatch.setattr(front.hmac, "compare_digest", compared)
        for token in ("wrong" * 8, late, revoked, valid[:-1], f"{valid}\n", TOKEN[:-1], f"x{TOKEN[1:]}", "x" * (1 << 20)):
            way.clear()
            assert await guests.identify(token) is None and way == ["hashed", ("compared in constant time", 64, 64)], token[:50]


def test_the_metadata_names_the_resource_as_it_was_called(guarded: Guarded) -> None:
    for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
        answer = json.loads(guarded.ask(None, "GET", path)[1])
        assert answer["resource"] == guarded.url and "authorization_servers" not in answer
        assert answer["scopes_supported"] == [*Role] and answer["bearer_methods_supported"] == ["header"]
    assert ask(guarded.url, "GET", path=path, Host='a", scope="b')[0] in (400, 404)
    assert "resource_metadata" not in ask(guarded.url, "GET", path="/anything", Host='a"b')[2].get("www-authenticate", "")


def test_prometheus_reads_the_lab_in_numbers(guarded: Guarded) -> None:
    status, text, headers = guarded.ask(Role.VIEWER, "GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = text.splitlines()
    assert all(
        re.fullmatch(r"# (HELP|TYPE) autoresearch_\w+ .+|autoresearch_\w+(\{\w+=\"(\\.|[^\"\\])*\"(,\w+=\"[^\"]+\")?\})? [-+.e\d]+", line)
        for line in lines
    ), text
    with contextlib.closing(Lab(guarded.lab.root)) as lab:
        status_now = lab.status(steps=False).model_copy(update={"cost_by_author": {'a "b"\\\n': 2.5}})
    assert 'autoresearch_author_device_seconds{author="a \\"b\\"\\\\\\n"} 2.5' in exposition(status_now).splitlines()
    assert {"autoresearch_promotions_total 0", "# TYPE autoresearch_promotions_total counter"} <= {*lines}
    assert guarded.ask(Role.VIEWER, "POST", "/metrics", "")[0] == 405 and guarded.ask(Role.VIEWER, "GET", "/metrics/x")[0] == 404


def test_prometheus_reads_how_often_each_tool_was_called_and_how_long_it_took(guarded: Guarded) -> None:
    def read() -> Counter[str]:
        lines = guarded.ask(Role.VIEWER, "GET", "/metrics")[1].splitlines()
        return Counter({name: round(float(value)) for name, _, value in (line.rpartition(" ") for line in lines) if "{tool" in name})

    before = read()
    for name, arguments in (("read_file", {}), ("read_file", {"path": "no such file"}), ("drop_tables", {})):
        guarded.call(Role.VIEWER, "tools/call", name=name, arguments=arguments)
    after = read()
    more = after - before
    assert [
        more[f'autoresearch_tool_calls_total{{tool="{tool}",outcome="{outcome}"}}']
        for tool, outcome in (("read_file", "ok"), ("read_file", "error"), ("other", "error"))
    ] == [1, 1, 1]
    within = [count for name, count in more.items() if name.startswith('autoresearch_tool_call_seconds_bucket{tool="read_file"')]
    assert within == sorted(within) and more['autoresearch_tool_call_seconds_bucket{tool="read_file",le="+Inf"}'] == 2
    assert more['autoresearch_tool_call_seconds_count{tool="read_file"}'] == 2 and not any("drop" in name for name in after)


def test_a_body_beyond_the_limit_is_refused_at_every_door(guarded: Guarded) -> None:
    for path in ("/mcp", "/try", "/anything"):
        with contextlib.suppress(ConnectionError):  # closed before all was sent
            assert guarded.ask(Role.WORKER, "POST", path, "x" * (4 * 1024 * 1024 + 1))[0] == 413


def listed(lab: Lab, experiment: str) -> list[str]:
    """Return an address of each kind of resource that a server has."""
    server = build_server(lab)

    async def both() -> tuple[list[str], list[str]]:
        resources, templates = await server.list_resources(), await server.list_resource_templates()
        return [str(each.uri) for each in resources], [each.uri_template for each in templates]

    whole, templates = anyio.run(both)
    return [*whole, *(each.replace("{id}", experiment).replace("{sha}", lab.champion()) for each in templates)]


async def heard(app: object, scope: Scope, receive: Receive) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)  # type: ignore[operator]
    return sent


async def reads_it_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def nothing() -> Message:
    return {"type": "http.request", "body": b""}


async def test_who_asks_too_often_waits_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    limit = RateLimit(lambda: 60, reads_it_all)

    async def status(identity: Identity) -> tuple[int, bytes]:
        (start, *_) = await heard(limit, {"type": "http", CALLER: identity}, nothing)
        return start["status"], dict(start["headers"]).get(b"retry-after", b"")

    ada, bob = Identity("ada", Role.WORKER), Identity("bob", Role.WORKER)
    assert [(await status(ada))[0] for _ in range(11)] == [200] * 10 + [429]
    assert (await status(ada))[1] == b"1"
    assert (await status(bob))[0] == 200 and [(await status(Identity()))[0] for _ in range(20)] == [200] * 20
    now += 3
    assert [(await status(ada))[0] for _ in range(4)] == [200] * 3 + [429]


async def test_a_body_that_trickles_in_is_given_up() -> None:
    async def trickle() -> Message:
        await anyio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def silence() -> Message:
        await anyio.sleep_forever()
        return {}

    for receive in (trickle, silence):
        with anyio.fail_after(5):
            assert (await heard(BodyTimeout(reads_it_all, 0.1), {"type": "http"}, receive))[0]["status"] == 408
    assert (await heard(BodyTimeout(reads_it_all, 0.1), {"type": "http"}, nothing))[0]["status"] == 200


async def test_headers_that_trickle_in_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    from autoresearch_mcp.server.mcp import limits

    monkeypatch.setattr(limits, "HEAD_S", 0.2)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(reads_it_all, http=limits.TimelyProtocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1)
    )
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listening])
        with anyio.fail_after(20):
            for start in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"):
                async with await anyio.connect_tcp(*listening.getsockname()) as stream:
                    if start:
                        await stream.send(start)
                    with pytest.raises(anyio.EndOfStream):
                        while True:
                            await stream.receive()
        server.should_exit = True
