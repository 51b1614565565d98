"""Who may do what: roles of servers and of tokens, and the record of who changed what."""

import contextlib
import json
import re
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server import cli
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.roles import Identity, Role
from tests.server.mcp.calls import answer, refusal
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.test_http import post, refused

pytestmark = pytest.mark.anyio

WRITES = {"propose_patch", "launch_training", "cancel_experiment", "write_memory", "claim_idea"}
ORCHESTRATORS = {"promote_commit", "launch_sweep"}
ALLOWED = {
    Role.VIEWER: {*TOOLS} - WRITES - ORCHESTRATORS,
    Role.WORKER: {*TOOLS} - ORCHESTRATORS,
    Role.ORCHESTRATOR: {*TOOLS},
    Role.OWNER: {*TOOLS},
    None: {*TOOLS},
}
PROMPTS = {
    Role.VIEWER: set[str](),
    Role.WORKER: {"worker"},
    Role.ORCHESTRATOR: {"worker", "orchestrator"},
    Role.OWNER: {"worker", "orchestrator"},
    None: {"worker", "orchestrator"},
}
NOTE = {"kind": "finding", "text": "Wider models learn more in the same time."}


@pytest.fixture(scope="module")
def runner_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


@contextlib.asynccontextmanager
async def serving(lab: FakeRunnerLab, identity: Identity) -> AsyncIterator[Client]:
    with contextlib.closing(Lab(lab.root)) as opened:
        async with Client(build_server(opened, identity)) as client:
            yield client


@contextlib.asynccontextmanager
async def calling(url: str, token: str) -> AsyncIterator[Client]:
    with anyio.fail_after(30):
        async with (
            create_mcp_http_client(headers={"Authorization": f"Bearer {token}"}) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            yield client


def made(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """Run a command, which prints a token first, and return that."""
    assert cli.main([*command]) == 0
    return capsys.readouterr().out.split()[0]


@pytest.mark.parametrize("role", [*Role, None])
async def test_what_is_beyond_a_role_is_neither_listed_nor_done(runner_lab: FakeRunnerLab, role: Role | None) -> None:
    async with serving(runner_lab, Identity("ada", role)) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == ALLOWED[role]
        assert {prompt.name for prompt in (await client.list_prompts()).prompts} == PROMPTS[role]
        before = runner_lab.ledger.changes()
        for tool in {*TOOLS} - ALLOWED[role]:
            why = await refusal(client, tool, **{"nothing": "of this is looked at"})
            assert re.search(rf"{tool} takes the role (worker|orchestrator), and ada is an? {role}", why)
        for prompt in {"worker", "orchestrator"} - PROMPTS[role]:
            with pytest.raises(MCPError, match=f"takes the role {prompt}"):
                await client.get_prompt(prompt, {})
        assert runner_lab.ledger.changes() == before
        assert "has no argument" in await refusal(client, "get_status", wrong=1)  # allowed, and then judged as ever


async def test_tokens_say_who_calls_and_what_they_may_do(
    runner_lab: FakeRunnerLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(runner_lab.root)
    with served_over_http(runner_lab.root) as server:
        # nobody has a token: this machine's accounts may call
        assert post(server.url)[0] == post(server.url, Authorization="Bearer of a client that was set up for another server")[0] == 200
        ada = made(capsys, "token", "create", "ada", "--role", "worker", root)
        boss = made(capsys, "token", "create", "boss", "--role", "orchestrator", "--expires", "30d", root)
        assert [post(server.url, Authorization=given)[0] for given in ("", "Bearer", f"Bearer {ada[:-1]}", f"Bearer {ada} x")] == [401] * 4
        assert post(server.url, Authorization=f"bearer {ada}")[0] == 200

        async with calling(server.url, ada) as worker, calling(server.url, boss) as chief:
            assert {tool.name for tool in (await worker.list_tools()).tools} == ALLOWED[Role.WORKER]
            launched = await answer(worker, "launch_training", commit="champion")
            (open_one,) = runner_lab.ledger.open_experiments()
            assert open_one.author == "ada"
            assert "token signs as ada, not as boss" in await refusal(worker, "write_memory", author="boss", **NOTE)
            memory = await answer(worker, "write_memory", author="ada", **NOTE)
            assert "takes the role orchestrator" in await refusal(worker, "promote_commit", commit="champion")
            assert (await answer(chief, "cancel_experiment", ids=[open_one.id], reason="Enough of it."))["states"] == {
                open_one.id: "cancelled"
            }

            other = made(capsys, "token", "rotate", "ada", root)
            assert post(server.url, Authorization=f"Bearer {ada}")[0] == 401 and post(server.url, Authorization=f"Bearer {other}")[0] == 200
        assert cli.main(["token", "revoke", "boss", root]) == 0
        assert post(server.url, Authorization=f"Bearer {boss}")[0] == 401
        monkeypatch.setattr("time.time", lambda now=time.time: now() - 100)
        late = made(capsys, "token", "create", "late", "--expires", "90s", root)
        monkeypatch.undo()
        assert post(server.url, Authorization=f"Bearer {late}")[0] == 401
        assert cli.main(["token", "revoke", "ada", root]) == 0
        assert post(server.url)[0] == 401  # the last token is gone, and the door stays shut

    capsys.readouterr()
    assert cli.main(["token", "list", root]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("ada", "boss", "late", "revoked", "expired", "orchestrator"))
    files = b"".join(path.read_bytes() for path in runner_lab.root.joinpath(".autoresearch").glob("ledger.sqlite*"))
    assert not any(secret in shown or secret.encode() in files for secret in (ada, boss, other, late))

    assert cli.main(["changes", "--json", root]) == 0
    changes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    mine = [
        (line["who"], line["role"], line["way"], line["action"], line["subject"]) for line in reversed(changes) if line["way"] == "http"
    ]
    assert mine == [
        ("ada", "worker", "http", "launch_training", ", ".join(launched["experiments"])),
        ("ada", "worker", "http", "write_memory", memory["id"]),
        ("boss", "orchestrator", "http", "cancel_experiment", open_one.id),
    ]
    assert {line["origin"].rpartition(" at ")[2] for line in changes if line["way"] == "http"} == {"127.0.0.1"}
    tokens = [line["action"] for line in changes if line["way"] == "command line"]
    assert tokens == ["token revoke", "token create", "token revoke", "token rotate", "token create", "token create"]
    assert cli.main(["changes", root]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + len(changes) and any(open_one.id in row and "cancel_experiment" in row for row in rows)  # none is cut
    assert cli.main(["changes", "--json", "--by", "boss", "--since", "1h", root]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


async def test_an_answer_after_which_nothing_changed_is_no_change(runner_lab: FakeRunnerLab) -> None:
    async with serving(runner_lab, Identity()) as client:
        first = await answer(client, "launch_training", commit="champion", idempotency_key="once and no more", author="bo")
        again = await answer(client, "launch_training", commit="champion", idempotency_key="once and no more", author="bo")
        await answer(client, "promote_commit", commit="champion", author="bo")
        await answer(client, "get_status")
    assert again["repeated"] and again["experiments"] == first["experiments"]
    (change,) = runner_lab.ledger.recorded_changes("bo")
    assert (change.action, change.subject, change.role) == ("launch_training", first["experiments"][0], "")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("create", "a b"), "is no name for a token"),
        (("create", "x" * 65), "is no name for a token"),
        (("create", "[owner]"), "is no name for a token"),
        (("revoke", "nobody"), "has no valid token"),
        (("rotate", "nobody"), "has no valid token"),
    ],
)
def test_a_token_that_cannot_be_is_refused(
    runner_lab: FakeRunnerLab, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], why: str
) -> None:
    assert cli.main(["token", *command, str(runner_lab.root)]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (("--role", "king"), "'viewer', 'worker', 'orchestrator', 'owner'"),
        (("--expires", "soon"), "such as 30d"),
        (("--expires", "0d"), "0d"),
    ],
)
def test_a_role_or_time_that_is_none_is_refused(
    runner_lab: FakeRunnerLab, wrong: tuple[str, str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["token", "create", "ada", *wrong, str(runner_lab.root)])
    assert why in capsys.readouterr().err


def test_a_name_has_one_token(runner_lab: FakeRunnerLab, capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys, "token", "create", "one", str(runner_lab.root))
    assert cli.main(["token", "create", "one", str(runner_lab.root)]) == 2
    assert "token rotate" in capsys.readouterr().err


def test_a_token_that_ends_is_replaced_by_one_that_ends(runner_lab: FakeRunnerLab, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(runner_lab.root)
    made(capsys, "token", "create", "brief", "--role", "viewer", "--expires", "30d", root)
    for more, days in (((), 30), (("--expires", "12h"), 0.5)):
        assert cli.main(["token", "rotate", "brief", *more, root]) == 0
        *_, token = (each for each in runner_lab.ledger.tokens().values() if each.name == "brief")
        assert token.expires_at == pytest.approx(token.created_at + days * 86_400, abs=1) and token.role is Role.VIEWER
        assert f"a viewer, until {time.strftime('%Y-%m-%d %H:%M', time.gmtime(token.expires_at))} UTC" in capsys.readouterr().out


def test_it_encrypts_with_a_certificate(runner_lab: FakeRunnerLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*new, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    token = made(capsys, "token", "create", "tls", "--role", "viewer", str(runner_lab.root))
    options = ["--certfile", str(certificate), "--keyfile", str(key)]
    with served_over_http(runner_lab.root, "0.0.0.0:0", options) as server:  # beyond this machine, as the lab has a token
        where = urlsplit(server.url)
        assert where.scheme == "https"
        trusting = ssl.create_default_context(cafile=certificate)
        with contextlib.closing(HTTPSConnection("127.0.0.1", where.port, timeout=10, context=trusting)) as connection:
            headers: dict[str, Any] = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
            connection.request("POST", "/mcp", body, headers | {"Authorization": f"Bearer {token}"})
            assert connection.getresponse().status == 200
    assert "go together" in refused(runner_lab.root, "127.0.0.1:0", ["--certfile", str(certificate)])
    assert "can't be used" in refused(runner_lab.root, "127.0.0.1:0", ["--certfile", str(key), "--keyfile", str(key)])
