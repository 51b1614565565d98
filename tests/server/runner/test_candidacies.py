"""Launches until decided: one replicate at a time until the gate decides, whatever happens to the runner, the budget or the champion."""

import itertools
import random
import secrets
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.gate import Gate
from autoresearch_mcp.server.models import Candidacy
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner import candidacies
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.settings import load
from tests.server.harness import LabHarness
from tests.server.measured import MeasuredLab

DRAWING = (sys.executable, str(Path(__file__).parents[2] / "bench" / "drawing_launcher.py"), "0", "0.0")


@pytest.fixture
def harness(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    """A lab with one slot, in which nothing starts before `drive`."""
    harness = LabHarness(make_lab("deciding", {"slots = 0": "slots = 1"}))
    yield harness
    harness.close()


def propose(harness: LabHarness, number: int, gain: int = 0, author: str = "ada", fails: bool = False) -> str:
    """An idea that is better by so many tenths of a standard deviation, or one whose code fails."""
    replace = f"UNEMBEDDING_LR = 0.004{gain:02d}{number:04d}" + ("\nFAILS = print" if fails else "")
    edits = [{"path": "train.py", "search": "UNEMBEDDING_LR = 0.004", "replace": replace}]
    return harness.lab.propose_patch(f"Idea {number}, another rate.", author, edits=edits).commit


def launch(harness: LabHarness, commit: str, author: str = "ada", **more: object) -> str:
    with runner_lock(harness.state):  # so that a call starts no runner
        answer = harness.lab.launch_until_decided(commit, author, **more)  # type: ignore[arg-type]
    assert answer.until_decided is not None
    return answer.until_decided


def drive(harness: LabHarness) -> None:
    harness.drive(command=DRAWING)


def candidacy(harness: LabHarness, id: str) -> Candidacy:
    (found,) = harness.lab.candidacies([id])
    return found


def test_a_large_gain_is_trained_until_the_gate_says_yes(harness: LabHarness) -> None:
    commit = propose(harness, 1, gain=99)
    id = launch(harness, commit)
    drive(harness)
    ended = candidacy(harness, id)
    assert (ended.state, ended.verdict) == ("decided", "promote")
    assert 3 <= ended.replicates <= 6, "the champion's 8 replicates are waited for, not trained along"
    assert harness.lab.promote_commit(commit, "ada").promoted


def test_no_gain_is_given_up_and_everything_is_trained_in_turn(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbelow", random.Random(0).randrange)  # of some hundred draws, one looks like a gain
    ids = [launch(harness, propose(harness, n)) for n in range(1, 5)]
    drive(harness)
    assert {candidacy(harness, id).verdict for id in ids} <= {"futile", "not_confirmed"}
    assert {candidacy(harness, id).state for id in ids} == {"decided"}
    starts = [each.commit for each in harness.ledger.starts(1000)]
    twice = sum(one == other for one, other in itertools.pairwise(starts))
    assert twice == 0
    assert harness.ledger.open_experiments() == [] and harness.lab.status().budget.reserved_s == 0


def test_a_launch_until_decided_answers_with_its_first_replicate_and_is_not_doubled(harness: LabHarness) -> None:
    commit = propose(harness, 1)
    with runner_lock(harness.state):
        first = harness.lab.launch_until_decided(commit, "ada", idempotency_key="the-same-key")
        again = harness.lab.launch_until_decided(commit, "ada", idempotency_key="the-same-key")
        other = harness.lab.launch_until_decided(commit, "bob")
    assert (again.repeated, again.until_decided, again.experiments) == (True, first.until_decided, first.experiments)
    assert (other.repeated, other.until_decided) == (True, first.until_decided)
    assert len(harness.ledger.open_experiments()) == 1


def test_what_is_decided_takes_no_other_launch(harness: LabHarness) -> None:
    commit = propose(harness, 1)
    launch(harness, commit)
    drive(harness)
    with pytest.raises(LabError, match="has decided"):
        launch(harness, commit)
    with pytest.raises(LabError, match="This is the champion"):
        launch(harness, "champion")


def test_a_cancelled_launch_starts_nothing_more(harness: LabHarness) -> None:
    commit = propose(harness, 1, gain=50)
    id = launch(harness, commit)
    with pytest.raises(LabError, match="launched by ada"):
        harness.lab.cancel("bob", [id])
    with runner_lock(harness.state):
        assert harness.lab.cancel("ada", [id]).states == {id: "cancelled"}
        assert "had ended" in harness.lab.cancel("ada", [id]).note
    drive(harness)
    assert harness.ledger.starts(10) == []
    assert candidacy(harness, id).state == "cancelled"


def test_a_device_kind_that_the_lab_no_longer_has_stops_it_with_the_reason(harness: LabHarness) -> None:
    id = launch(harness, propose(harness, 1, gain=10))
    with sqlite3.connect(harness.state / "ledger.sqlite") as db:  # launched while the lab had another device
        db.execute("UPDATE candidacies SET record = json_set(record, '$.device', 'cuda')")
    db.close()
    drive(harness)
    ended = candidacy(harness, id)
    assert ended.state == "stopped" and "no longer compares on cuda" in ended.note
    assert len([start for start in harness.ledger.starts(100) if start.commit == ended.commit]) == 1, (
        "what was launched before runs, and no more"
    )
    assert harness.ledger.open_experiments() == [] and harness.lab.status().budget.reserved_s == 0


def test_a_champion_some_of_whose_replicates_showed_nothing_is_still_measured_where_the_cap_is_low(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("low", {"slots = 0": "slots = 1", "max_replicates = 16": "max_replicates = 3"}))
    launched = harness.ledger.champion_replicates
    harness.ledger.champion_replicates = lambda *which: [*launched(*which), "e-1", "e-2", "e-3"]  # type: ignore[method-assign, assignment]
    commit = propose(harness, 1, gain=99)
    id = launch(harness, commit)
    drive(harness)
    assert (candidacy(harness, id).state, candidacy(harness, id).verdict) == ("decided", "promote")
    harness.close()


def test_its_own_budget_ends_it_in_the_middle(harness: LabHarness) -> None:
    each_h = harness.lab.settings.longest_s() / 3600
    with pytest.raises(LabError, match="more than its budget"):
        launch(harness, propose(harness, 1), budget=each_h / 2)
    id = launch(harness, propose(harness, 2, gain=15), budget=each_h * 1.0001)
    move = harness.ledger.move

    def dear(id: str, states: list[str], **changes: object) -> object:
        return move(id, states, **changes | ({"cost_s": 1.0} if "cost_s" in changes else {}))  # type: ignore[arg-type]

    harness.ledger.move = dear  # type: ignore[method-assign, assignment]
    drive(harness)
    ended = candidacy(harness, id)
    assert ended.state == "out_of_budget" and "budget of" in ended.note
    assert (ended.replicates, ended.spent_s) == (1, 1.0)


def test_the_lab_budget_ends_it_in_the_middle(make_lab: Callable[..., Path]) -> None:
    hours = 1.2 * load(make_lab("rich")).longest_s() / 3600
    harness = LabHarness(make_lab("poor", {"slots = 0": "slots = 1", "device_hours = 8.0": f"device_hours = {hours:.4f}"}))
    id = launch(harness, propose(harness, 1, gain=15))
    move = harness.ledger.move

    def dear(id: str, states: list[str], **changes: object) -> object:
        return move(id, states, **changes | ({"cost_s": 5.0} if "cost_s" in changes else {}))  # type: ignore[arg-type]

    harness.ledger.move = dear  # type: ignore[method-assign, assignment]
    drive(harness)
    ended = candidacy(harness, id)
    assert ended.state == "out_of_budget" and "[budget] device_hours" in ended.note
    assert harness.lab.status().budget.reserved_s == 0
    harness.close()


def test_a_candidate_that_waits_for_the_champion_ends_with_the_lab_budget(make_lab: Callable[..., Path]) -> None:
    longest_s = load(make_lab("rich")).longest_s()
    hours = 3 * longest_s / 3600
    harness = LabHarness(make_lab("poor", {"slots = 0": "slots = 1", "device_hours = 8.0": f"device_hours = {hours:.6f}"}))
    id = launch(harness, propose(harness, 1, gain=99))
    move, costs = harness.ledger.move, itertools.chain([0.0] * 8, itertools.repeat(1.5 * longest_s))

    def dear(id: str, states: list[str], **changes: object) -> object:
        return move(id, states, **changes | ({"cost_s": next(costs)} if "cost_s" in changes else {}))  # type: ignore[arg-type]

    harness.ledger.move = dear  # type: ignore[method-assign, assignment]
    drive(harness)
    ended = candidacy(harness, id)
    assert (ended.state, ended.verdict) == ("out_of_budget", "champion") and "covers no replicate of the champion" in ended.note
    harness.close()


def test_code_that_fails_costs_what_the_gate_allows_and_no_more(harness: LabHarness) -> None:
    id = launch(harness, propose(harness, 1, fails=True))
    drive(harness)
    ended = candidacy(harness, id)
    assert ended.state in ("decided", "stopped") and ended.replicates <= 48
    assert not harness.lab.promote_commit(ended.commit, "ada").promoted


def test_undecided_candidates_are_rebased_when_the_champion_moves(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change of another file part goes on top of the new champion, with no replicates. The first can start before the last is rebased."""
    monkeypatch.setattr(candidacies, "SLICE_S", 0.0)
    winner = propose(harness, 1, gain=99)
    softcaps = [{"path": "train.py", "search": "SOFTCAP = 15.0", "replace": f"SOFTCAP = {n}.0"} for n in (14, 13)]
    other, last = (harness.lab.propose_patch("A smaller softcap.", "bob", edits=[edit]).commit for edit in softcaps)
    launch(harness, winner)
    drive(harness)
    id, last_id = (launch(harness, commit, author="bob") for commit in (other, last))
    gate = Gate(harness.ledger, lambda: harness.lab.settings)
    repo = Repo(harness.root, harness.lab.settings.training.editable)
    with runner_lock(harness.state):  # so that a call starts no runner
        assert harness.lab.promote_commit(winner, "ada").promoted
        anyio.run(candidacies.Candidacies(lambda: harness.lab.settings, harness.ledger, repo, gate).advance)
    assert candidacy(harness, last_id).commit == last
    queued = [e.commit for e in harness.ledger.open_experiments("queued") if not e.cancel_requested]
    assert queued == [candidacy(harness, id).commit] != [other], "what is stale doesn't start before it is rebased"
    drive(harness)
    ended = candidacy(harness, id)
    assert ended.commit != other and ended.state == "decided"
    assert harness.lab.champion() == winner
    assert [row["state"] for row in harness.ledger.ended_of(other)] == ["cancelled"]  # it waited, on the old champion
    assert len(harness.ledger.ended_of(ended.commit)) == ended.replicates


def test_a_change_that_no_longer_applies_is_stopped_with_the_reason(harness: LabHarness) -> None:
    winner, other = propose(harness, 1, gain=50), propose(harness, 2)
    launch(harness, winner)
    drive(harness)
    id = launch(harness, other)
    assert harness.lab.promote_commit(winner, "ada").promoted
    drive(harness)
    assert candidacy(harness, id).state == "stopped" and "same lines" in candidacy(harness, id).note
    with pytest.raises(LabError, match="same lines"):
        launch(harness, other)


def test_conditions_that_change_in_the_middle_start_the_count_again(harness: LabHarness) -> None:
    commit = propose(harness, 1, gain=12)
    id = launch(harness, commit)
    toml = harness.root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("budget_s = 1 ", "budget_s = 2 "), encoding="utf-8")
    drive(harness)
    ended = candidacy(harness, id)
    assert ended.state == "decided"
    by_conditions = Counter(score.conditions for score in harness.ledger.scores(commit))
    assert len(by_conditions) == 2 and min(by_conditions.values()) == 1
    assert ended.replicates == max(by_conditions.values())


def test_a_candidate_whose_conditions_are_of_the_past_is_trained_under_the_champions(harness: LabHarness) -> None:
    """Packages that changed meanwhile leave the champion's new replicates uncounted: without it, the lab would train it until it gives up."""
    bench, champion, commit = MeasuredLab(harness.root), harness.lab.champion(), propose(harness, 1)
    id = launch(harness, commit)
    (first,) = [e.id for e in harness.ledger.open_experiments("queued")]
    harness.ledger.move(first, ["queued"], state="starting", started_at=1.0)
    harness.ledger.keep_evidence(first, "landlock-7", 0.5, first)
    harness.ledger.move(first, ["starting"], state="finished", val_bpb=0.5, conditions="before", finished_at=1.5)
    bench.measure(champion, [1.50, 1.51, 1.52, 1.505, 1.515, 1.51], conditions="before")
    bench.measure(commit, [0.51, 0.52, 0.505], conditions="before")

    def queued() -> list[str]:
        gate, repo = Gate(harness.ledger, lambda: harness.lab.settings), Repo(harness.root, harness.lab.settings.training.editable)
        anyio.run(candidacies.Candidacies(lambda: harness.lab.settings, harness.ledger, repo, gate).advance)
        return [e.commit for e in harness.ledger.open_experiments("queued")]

    assert queued() == [] and candidacy(harness, id).verdict == "champion"
    bench.measure(champion, [1.50, 1.51], conditions="now")
    assert queued() == []
    bench.measure(champion, [1.505], conditions="now")
    assert queued() == [commit]
    bench.close()
