"""Trainings that are hopeless are stopped where the owner asked for it: a first training only, and every 20th goes on."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.pace import SPARED
from autoresearch_mcp.server.runner import hopeless
from autoresearch_mcp.server.runner.hopeless import is_spared
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.harness import LabHarness

CURVING = (sys.executable, str(Path(__file__).with_name("curving_launcher.py")))


@pytest.fixture
def harness(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    harness = LabHarness(make_lab("stopping", {"slots = 0": "slots = 4", "[training]\n": "[training]\nstop_hopeless = true\n"}))
    yield harness
    harness.close()


@pytest.fixture(autouse=True)
def nobody_is_spared_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopeless, "is_spared", lambda id: False)


def propose(harness: LabHarness) -> str:
    edits = [{"path": "train.py", "search": "WIDTH = 64", "replace": "WIDTH = 32  # HOPELESS\nHOPELESS = True"}]
    return harness.lab.propose_patch("A smaller width trains faster.", "ada", edits=edits).commit


def train(harness: LabHarness, commit: str, replicates: int = 1) -> list[Experiment]:
    with runner_lock(harness.state) as mine:
        assert mine
        ids = harness.lab.launch_training(commit, "ada", replicates).experiments
    harness.drive(command=CURVING)
    return [harness.lab._core.experiment(id) for id in ids]


def test_a_hopeless_first_training_is_stopped_and_told_as_such(harness: LabHarness) -> None:
    train(harness, "champion", 8)
    commit = propose(harness)
    (e,) = train(harness, commit)
    assert e.state == "stopped_early" and e.metric is None
    assert e.failure is not None and e.failure.kind == "hopeless"
    assert "at 50% of the budget" in e.failure.message and re.search(r"sd worse than that of (8|9) runs of the champion", e.failure.message)
    assert harness.lab.status().counts["stopped_early"] == 1
    (score,) = harness.ledger.scores(commit)
    assert score.started and score.state == "stopped_early", "it counts as a failure at the gate"
    assert [e.state for e in train(harness, commit)] == ["finished"], "a second training of it is left alone"


def test_too_few_runs_of_the_champion_stop_nothing(harness: LabHarness) -> None:
    train(harness, "champion", 5)  # and the lab trains some beside the proposal
    assert [e.state for e in train(harness, propose(harness))] == ["finished"]


def test_it_is_off_unless_the_owner_asked_for_it(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("patient", {"slots = 0": "slots = 4"}))
    train(harness, "champion", 8)
    (e,) = train(harness, propose(harness))
    assert e.state == "finished" and e.details.get(SPARED) is None
    harness.close()


def test_one_in_twenty_goes_on_and_its_record_says_what_would_have_been(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    train(harness, "champion", 8)
    monkeypatch.setattr(hopeless, "is_spared", lambda id: True)
    (e,) = train(harness, propose(harness))
    assert e.state == "finished" and e.metric is not None and e.failure is None
    assert "at 50% of the budget" in e.details[SPARED]


def test_about_one_in_twenty_is_spared() -> None:
    assert 60 <= sum(is_spared(new_id("e")) for _ in range(2000)) <= 145
