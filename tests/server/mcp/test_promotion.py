"""A human's approval through the client, in both protocol eras: an explicit yes or nothing."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitResult, Implementation

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp import build_server
from tests.server.mcp.conftest import Stand, make_stand
from tests.server.mcp.pipe import SERVE

pytestmark = pytest.mark.anyio
Mode = Literal["auto", "legacy"]


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    yield from make_stand(tmp_path / "lab", approval="human")


@pytest.fixture
def lab(stand: Stand) -> Iterator[Lab]:
    with contextlib.closing(Lab(stand.root)) as lab:
        yield lab


@pytest.fixture
def winner(stand: Stand, lab: Lab) -> str:
    """A proposal that beat the champion, three replicates each."""
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 1"}]
    commit = lab.propose_patch("One layer less is faster.", "ada", edits=edits).commit
    for sha, metrics in ((lab.status().champion.commit, [1.68, 1.681, 1.679]), (commit, [1.64, 1.641, 1.639])):
        for id, val_bpb in zip(lab.launch_training(sha, "ada", replicates=3).experiments, metrics, strict=True):
            stand.finish(id, val_bpb, "same")
    return commit


async def promote(
    lab: Lab, commit: str, mode: Mode, reply: ElicitResult | None, over_stdio: bool = False
) -> tuple[dict[str, Any], list[str]]:
    questions: list[str] = []

    async def ask(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        questions.append(params.message)
        assert reply is not None
        return reply

    who = Implementation(name="claude", version="1")
    server = (
        StdioServerParameters(command=sys.executable, args=["-c", SERVE, str(lab.root)], cwd=Path.cwd())
        if over_stdio
        else build_server(lab)
    )
    with anyio.fail_after(20):
        async with Client(server, mode=mode, client_info=who, elicitation_callback=ask if reply else None) as client:
            result = await client.call_tool("promote_commit", {"commit": commit})
    assert not result.is_error and result.structured_content is not None, result.content
    return result.structured_content, questions


@pytest.mark.parametrize("over_stdio", [False, True])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_yes_promotes_and_names_who_said_it(lab: Lab, stand: Stand, winner: str, mode: Mode, over_stdio: bool) -> None:
    answer, questions = await promote(lab, winner, mode, ElicitResult(action="accept", content={"approve": True}), over_stdio)
    assert answer["promoted"] and answer["champion"] == lab.status().champion.commit == winner
    assert [promotion.approved_by for promotion in stand.ledger.promotions()] == ["claude user"]
    (question,) = questions
    assert winner[:12] in question


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(
    "reply",
    [ElicitResult(action="accept", content={"approve": False}), ElicitResult(action="decline"), ElicitResult(action="cancel")],
    ids=["no", "decline", "cancel"],
)
async def test_anything_but_a_yes_keeps_the_champion(lab: Lab, stand: Stand, winner: str, mode: Mode, reply: ElicitResult) -> None:
    answer, questions = await promote(lab, winner, mode, reply)
    assert (answer["promoted"], answer["verdict"]["code"], len(questions)) == (False, "awaiting_approval", 1)
    assert "did not approve" in answer["note"] and lab.status().champion.commit != winner
    assert stand.ledger.promotions() == []


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_that_cannot_ask_is_told_what_a_human_can_do(lab: Lab, winner: str, mode: Mode) -> None:
    answer, _ = await promote(lab, winner, mode, None)
    assert (answer["promoted"], answer["verdict"]["code"]) == (False, "awaiting_approval")
    assert f"autoresearch-mcp approve {winner}" in answer["note"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_nobody_is_asked_about_what_the_gate_refuses(lab: Lab, mode: Mode) -> None:
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}]
    commit = lab.propose_patch("One layer more is better.", "ada", edits=edits).commit
    answer, questions = await promote(lab, commit, mode, ElicitResult(action="accept", content={"approve": True}))
    assert (answer["verdict"]["code"], questions) == ("too_few_replicates", [])
