"""Launches that are seldom meant need a second word, and the refusal says why and how."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mcp import Client

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from tests.server.mcp.calls import answer, refusal
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.winning import propose, win

pytestmark = pytest.mark.anyio


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab", {"slots = 0": "slots = 2"})


@pytest.fixture
async def client(lab: Lab) -> AsyncIterator[Client]:
    async with Client(build_server(lab)) as client:
        yield client


async def refused_at_first(client: Client, runner_lab: FakeRunnerLab, **launch: object) -> str:
    """What a launch is refused with; with confirm=true it goes through."""
    before = len(runner_lab.ledger.open_experiments())
    why = await refusal(client, "launch_training", author="ada", **launch)
    assert "Nothing was queued" in why and "confirm=true" in why and len(runner_lab.ledger.open_experiments()) == before
    await answer(client, "launch_training", author="ada", confirm=True, **launch)
    assert len(runner_lab.ledger.open_experiments()) > before
    return why


async def test_a_launch_above_a_tenth_of_what_is_left(client: Client, runner_lab: FakeRunnerLab, lab: Lab) -> None:
    hours = 50 * lab.settings.longest_s() / 3600
    settings = runner_lab.root / "lab.toml"
    settings.write_text(settings.read_text("utf-8").replace("device_hours = 8.0 ", f"device_hours = {hours!r} "), "utf-8")
    keyed = {"commit": "champion", "replicates": 5, "idempotency_key": "five-of-fifty"}
    first = await answer(client, "launch_training", author="ada", **keyed)
    again = await answer(client, "launch_training", author="ada", **keyed)
    assert again["repeated"] and again["experiments"] == first["experiments"], "a repeated launch is no launch"
    edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 6"}]
    proposed = await answer(client, "propose_patch", hypothesis="A depth of 6 is better.", edits=edits, launch=5)
    assert "a tenth" in proposed["note"] and "launch_training with confirm=true" in proposed["note"] and "launched" not in proposed
    assert "more than a tenth of the" in await refused_at_first(client, runner_lab, commit="champion", replicates=5)


async def test_a_launch_that_takes_all_slots_for_long_while_others_wait(client: Client, runner_lab: FakeRunnerLab, lab: Lab) -> None:
    many = int(600 * lab.settings.slots / lab.settings.longest_s()) + 1
    assert 1 < many <= 16
    (alone,) = (await answer(client, "launch_training", commit="champion", author="bob"))["experiments"]
    await answer(client, "launch_training", commit="champion", author="ada", replicates=many - 1)
    assert "while 1 other author wait" in await refused_at_first(client, runner_lab, commit="champion", replicates=many)
    await answer(client, "cancel_experiment", ids=[alone], author="bob")
    await answer(client, "launch_training", commit="champion", author="ada", replicates=many)


async def test_a_commit_that_the_gate_decided_against_or_whose_base_is_superseded(
    client: Client, runner_lab: FakeRunnerLab, lab: Lab
) -> None:
    winner, bad, old = propose(lab, 1), propose(lab, 4), propose(lab, 5)
    measured = propose(lab, 6, kind="measurement")
    win(runner_lab, lab, winner)
    for id, val_bpb in zip(lab.launch_training(bad, "ada", 3).experiments, [1.9, 1.91, 1.92], strict=True):
        runner_lab.finish(id, val_bpb, "same")
    assert lab.promote_commit(bad, "ada").verdict.code == "futile"
    assert "has decided against" in await refused_at_first(client, runner_lab, commit=bad)
    assert lab.promote_commit(winner, "ada").promoted
    assert f"port='{old[:12]}'" in await refused_at_first(client, runner_lab, commit=old)
    for commit in (measured, winner, "champion"):
        await answer(client, "launch_training", commit=commit, author="ada")
