"""A person's approval through the client, in both protocol eras: from a client that the owner named, an explicit yes or nothing."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client import ClientRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.types import ElicitRequestParams, ElicitResult, Implementation

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.paths import LabPaths
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.pipe import ENVELOPE, SERVE, served

pytestmark = pytest.mark.anyio
Mode = Literal["auto", "legacy"]


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab", {'approval = "none"': 'approval = "human"', "clients = []": 'clients = ["claude"]'})


@pytest.fixture
def winner(runner_lab: FakeRunnerLab, lab: Lab) -> str:
    """A proposal that beat the champion, with three replicates against eight that the lab trained."""
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 1"}]
    commit = lab.propose_patch("One layer less is faster.", "ada", edits=edits).commit
    champion = lab.status().champion.commit
    for sha, metrics in ((champion, [1.68, 1.681, 1.679, 1.6805, 1.6795, 1.682, 1.678, 1.6801]), (commit, [1.64, 1.641, 1.639])):
        for id, val_bpb in zip(lab.launch_training(sha, "ada", replicates=len(metrics)).experiments, metrics, strict=True):
            runner_lab.finish(id, val_bpb, "same", by_lab=sha == champion)
    return commit


async def promote(
    lab: Lab, commit: str, mode: Mode, reply: ElicitResult | None, transport: str = "memory", name: str = "claude"
) -> tuple[dict[str, Any], list[str]]:
    questions: list[str] = []

    async def ask(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        assert reply is not None
        return reply

    with contextlib.ExitStack() as stack:
        server: StdioServerParameters | MCPServer[object] | str = build_server(lab)
        if transport == "stdio":
            server = StdioServerParameters(command=sys.executable, args=["-c", SERVE, str(lab.root)], cwd=Path.cwd())
        elif transport == "http":
            server = stack.enter_context(served_over_http(lab.root)).url
        who = Implementation(name=name, version="1")
        with anyio.fail_after(20):
            async with Client(server, mode=mode, client_info=who, elicitation_callback=ask if reply else None) as client:
                result = await client.call_tool("promote_commit", {"commit": commit})
    assert not result.is_error and result.structured_content is not None, result.content
    return result.structured_content, questions


YES = ElicitResult(action="accept", content={"approve": True})


@pytest.mark.parametrize(
    ("transport", "mode"), [("memory", "auto"), ("memory", "legacy"), ("stdio", "auto"), ("stdio", "legacy"), ("http", "auto")]
)
async def test_a_yes_at_a_named_client_promotes_and_the_record_says_how(
    lab: Lab, runner_lab: FakeRunnerLab, winner: str, transport: str, mode: Mode
) -> None:
    answer, questions = await promote(lab, winner, mode, YES, transport)
    assert answer["promoted"] and answer["champion"] == winner[:12] and lab.champion() == winner
    assert [promotion.approved_by for promotion in runner_lab.ledger.promotions()] == ["a person at the client claude"]
    (question,) = questions
    assert winner[:12] in question


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(
    "reply",
    [
        *(ElicitResult(action="accept", content={"approve": value}) for value in (False, "yes", "true", "on", 1)),
        ElicitResult(action="accept", content={}),
        ElicitResult(action="decline"),
        ElicitResult(action="cancel"),
    ],
    ids=["no", "yes as text", "true as text", "on", "1", "nothing", "decline", "cancel"],
)
async def test_anything_but_a_yes_keeps_the_champion(
    lab: Lab, runner_lab: FakeRunnerLab, winner: str, mode: Mode, reply: ElicitResult
) -> None:
    answer, questions = await promote(lab, winner, mode, reply)
    assert (answer["promoted"], answer["verdict"]["code"], len(questions)) == (False, "awaiting_approval", 1)
    assert "did not approve" in answer["note"] and lab.status().champion.commit != winner
    assert runner_lab.ledger.promotions() == []


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_that_the_owner_did_not_name_is_not_asked(lab: Lab, runner_lab: FakeRunnerLab, winner: str, mode: Mode) -> None:
    toml = LabPaths(runner_lab.root).settings
    toml.write_text(toml.read_text(encoding="utf-8") + '\n[[alerts.webhooks]]\nurl = "https://a.example"\n', encoding="utf-8")
    answer, questions = await promote(lab, winner, mode, YES, name="script")
    (told,) = runner_lab.ledger.take_deliveries(1, 9, [], time.time() + 1)
    assert told.alert.kind == "approval"  # a person hears of it elsewhere
    assert (answer["promoted"], answer["verdict"]["code"], questions) == (False, "awaiting_approval", [])
    assert "'script'" in answer["note"] and "approval_clients" in answer["note"]
    assert runner_lab.ledger.promotions() == []


async def test_a_client_that_cannot_ask_is_told_why_and_what_a_person_can_do(lab: Lab, winner: str) -> None:
    for mode, transport, why in (("auto", "memory", "no elicitation"), ("legacy", "http", "before 2026-07-28")):
        answer, _ = await promote(lab, winner, mode, YES if transport == "http" else None, transport)  # type: ignore[arg-type]
        assert (answer["promoted"], answer["verdict"]["code"]) == (False, "awaiting_approval")
        assert why in answer["note"] and f"autoresearch-mcp approve {winner}" in answer["note"]


async def test_the_question_is_named_in_plain_words(lab: Lab, winner: str) -> None:
    with served(lab.root) as pipe:
        able = ENVELOPE | {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}
        able |= {"io.modelcontextprotocol/clientInfo": {"name": "claude", "version": "1"}}
        asked = pipe.ask(1, "tools/call", name="promote_commit", arguments={"commit": winner}, _meta=able)["result"]
    assert list(asked["inputRequests"]) == ["promote_commit:approval"]


async def test_a_person_at_the_command_line_promotes_and_the_record_says_so(lab: Lab, runner_lab: FakeRunnerLab, winner: str) -> None:
    assert cli.main(["approve", winner, str(lab.root), "--by", "Ada"]) == 0
    assert [promotion.approved_by for promotion in runner_lab.ledger.promotions()] == ["Ada on the command line"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_nobody_is_asked_about_what_the_gate_refuses(lab: Lab, mode: Mode) -> None:
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}]
    commit = lab.propose_patch("One layer more is better.", "ada", edits=edits).commit
    answer, questions = await promote(lab, commit, mode, YES)
    assert (answer["verdict"]["code"], questions) == ("continue", [])
