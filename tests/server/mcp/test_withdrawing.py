"""A proposal that its author regrets: its text corrected, or the whole withdrawn. The record keeps everything."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mcp import Client

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from tests.server.mcp.calls import answer, refusal
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.winning import propose, win

pytestmark = pytest.mark.anyio
EDITS = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 7"}]


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[Client]:
    async with Client(build_server(lab)) as client:
        yield client


async def test_a_withdrawn_proposal_is_in_no_list_and_in_the_record(client: Client, runner_lab: FakeRunnerLab, lab: Lab) -> None:
    text = "Rotary embeddings of twice the frequency are better."
    made = await answer(client, "propose_patch", hypothesis=text, edits=EDITS, launch=2, author="ada")
    commit, (first, second) = made["commit"], [line["id"] for line in made["launched"]]
    runner_lab.finish(first, 1.5, "same")
    assert commit in str(await answer(client, "query_experiments", group_by="commit"))
    assert "only ada" in await refusal(client, "cancel_experiment", commit=commit, withdraw=True, author="bob")
    assert "goes with commit" in await refusal(client, "cancel_experiment", mine=True, withdraw=True, author="ada")
    gone = await answer(client, "cancel_experiment", commit=commit, withdraw=True, author="ada", reason="It was a typo.")
    assert gone["states"] == {second: "cancelled"} and gone["freed_s"] > 0 and "stays in the record" in gone["note"]
    assert commit not in str(await answer(client, "query_experiments", group_by="commit"))
    status = await answer(client, "get_status")
    assert commit not in str(status["leaderboard"])
    assert commit not in str(await answer(client, "search_memory", query=text))
    similar = await answer(client, "propose_patch", hypothesis=text, edits=[EDITS[0] | {"replace": "DEPTH = 9"}], author="bob")
    assert similar.get("similar", []) == []
    for tool in ("launch_training", "promote_commit"):
        assert "was withdrawn" in await refusal(client, tool, commit=commit)
    assert "was withdrawn" in await refusal(client, "launch_training", commit=commit, until="decided")
    rows = await answer(client, "query_experiments", sql="SELECT withdrawn, remarks FROM proposals WHERE author = 'ada'")
    (row,) = rows["rows"]
    assert row["withdrawn"] == 1 and "ada withdrew it: It was a typo." in str(row["remarks"])
    assert "withdrew it" in str((await answer(client, "get_experiment", id=[first]))["remarks"])
    again = await answer(client, "propose_patch", hypothesis=text, edits=EDITS, author="bob")
    assert again["duplicate"] and again["commit"] == commit and "in the lists again" in again["note"] and "It was a typo" in again["note"]
    assert commit in str(await answer(client, "query_experiments", group_by="commit"))
    assert commit in str(await answer(client, "search_memory", query=text))


async def test_a_text_is_corrected_until_the_first_result_and_then_noted(client: Client, runner_lab: FakeRunnerLab, lab: Lab) -> None:
    made = await answer(client, "propose_patch", hypothesis="Sixty layers are better than two.", edits=EDITS, launch=1, author="ada")
    commit, id = made["commit"], made["launched"][0]["id"]
    assert commit in str(await answer(client, "search_memory", query="sixty layers"))
    better = {"amend": commit, "hypothesis": "Seven layers beat a couple of them."}
    assert "only ada" in await refusal(client, "propose_patch", author="bob", **better)
    assert "no change" in await refusal(client, "propose_patch", author="ada", edits=EDITS, **better)
    corrected = await answer(client, "propose_patch", author="ada", **better)
    assert (corrected["commit"], corrected["hypothesis"], corrected["title"]) == (
        commit,
        better["hypothesis"],
        "Seven layers beat a couple of them",
    )
    assert (
        commit not in str(await answer(client, "search_memory", query="sixty"))
        and lab.get_experiment(id).experiment.hypothesis == better["hypothesis"]
    )  # type: ignore[union-attr]
    assert commit in str(await answer(client, "search_memory", query="seven layers"))
    runner_lab.finish(id, 1.5, "same")
    noted = await answer(client, "propose_patch", author="ada", amend=commit, hypothesis="Eight layers were not even tried.")
    assert noted["hypothesis"] == better["hypothesis"] and "as a note" in noted["note"]
    remarks = (await answer(client, "get_experiment", id=[id]))["remarks"]
    assert ["Sixty layers" in remarks[0], "Eight layers" in remarks[1]] == [True, True]


async def test_the_owner_can_do_both_and_the_author_is_told(client: Client, runner_lab: FakeRunnerLab, lab: Lab) -> None:
    commit, winner = propose(lab, 7), propose(lab, 1)
    lab.unheard("ada")
    assert cli.main(["withdraw", commit[:12], str(runner_lab.root), "--correct", "What it says is another idea."]) == 0
    assert cli.main(["withdraw", commit[:12], str(runner_lab.root), "--reason", "It is spam."]) == 0
    assert lab.unheard("ada") == [f"The lab's owner withdrew your proposal {commit[:12]}: It is spam."]
    win(runner_lab, lab, winner)
    assert lab.promote_commit(winner, "ada").promoted
    assert "is in the champion" in await refusal(client, "cancel_experiment", commit=winner, withdraw=True, author="ada")
