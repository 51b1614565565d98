"""The runner starts trainings in the order of launches, and trains the champion beside candidates, at the lab's charge."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.settings import load
from tests.server.harness import LabHarness


@pytest.fixture
def harness(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    """A lab with one slot, in which nothing starts before `drive`."""
    harness = LabHarness(make_lab("scheduled", {"slots = 0": "slots = 1"}))
    yield harness
    harness.close()


def propose(harness: LabHarness, number: int, author: str = "ada") -> str:
    edits = [{"path": "train.py", "search": "UNEMBEDDING_LR = 0.004", "replace": f"UNEMBEDDING_LR = 0.004{number:03d}"}]
    return harness.lab.propose_patch(f"A rate that differs in the digits {number}.", author, edits=edits).commit


def queue(harness: LabHarness, *launches: tuple[str, int]) -> None:
    with runner_lock(harness.state):  # so that a call starts no runner
        for commit, replicates in launches:
            harness.lab.launch_training(commit, "ada", replicates)


def test_candidates_take_turns_and_the_champion_is_trained_beside_them(harness: LabHarness) -> None:
    first, second = propose(harness, 1), propose(harness, 2)
    queue(harness, (first, 3), (second, 3))
    harness.drive()
    starts = harness.ledger.starts(100)
    champion = harness.lab.champion()
    assert [each.commit for each in starts] == [
        first,
        champion,
        second,
        champion,
        first,
        champion,
        second,
        champion,
        first,
        champion,
        second,
    ]
    assert [each.by_lab for each in starts] == [each.commit == champion for each in starts]
    assert harness.ledger.open_experiments() == []


def test_the_lab_charges_its_replicates_of_the_champion_to_itself(harness: LabHarness) -> None:
    queue(harness, (propose(harness, 1), 2))
    harness.drive()
    rows = harness.ledger.recent(10)
    assert {row["author"] for row in rows if row["by_lab"]} == {"lab"}
    assert {row["author"] for row in rows if not row["by_lab"]} == {"ada"}
    scores = harness.ledger.scores(harness.lab.champion())
    assert scores and all(score.by_lab and score.launch for score in scores)


def test_nothing_is_trained_for_the_lab_where_only_the_champion_is_launched(harness: LabHarness) -> None:
    queue(harness, ("champion", 4))
    harness.drive()
    assert [each.by_lab for each in harness.ledger.starts(100)] == [False] * 4


def test_nothing_is_trained_for_the_lab_where_its_metric_counts_nowhere(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("unverified", {"slots = 0": "slots = 1", "threads = 1 ": 'reported_metric = "loss"\nthreads = 1 '}))
    queue(harness, (propose(harness, 1), 2))
    harness.drive()
    assert [each.by_lab for each in harness.ledger.starts(100)] == [False] * 2
    harness.close()


def test_a_training_that_the_rest_of_the_budget_may_not_cover_waits_or_is_refused(make_lab: Callable[..., Path]) -> None:
    root = make_lab("tight", {"slots = 0": "slots = 3"})
    harness, settings = LabHarness(root), load(root)
    commit, most, toml = propose(harness, 1), settings.longest_s(), root / "lab.toml"

    def budget(trainings: float) -> None:
        text = re.sub(r"device_hours = [\d.]+", f"device_hours = {trainings * most / 3600:.6f}", toml.read_text(encoding="utf-8"))
        toml.write_text(text, encoding="utf-8")

    budget(1.5)
    like_it = {
        "base": commit,
        "author": "ada",
        "hypothesis": "h",
        "device": "cpu",
        "created_at": 1.0,
        "reserved_s": most,
        "expected_s": 0.1,
    }
    for seed in range(3):
        e = Experiment(id=new_id("e"), commit=commit, seed=seed, **like_it)
        harness.ledger.enqueue([e], 1.5 * most, None, "r", launch=settings.launch())
    harness.drive()
    starts = harness.ledger.starts(100)
    assert sum(not each.by_lab for each in starts) == 3
    assert not any(each.beside for each in starts), "three slots are free, and the budget covers one at its worst"
    queue(harness, (commit, 1))
    (last,) = (e.id for e in harness.ledger.open_experiments())
    budget(0.5)
    harness.drive()
    (ended,) = harness.ledger.ended([last]).values()
    assert (ended["state"], ended["started"]) == ("crashed", 0) and "over_budget: A training can use up to" in ended["failure"]
    harness.close()


def test_a_budget_that_covers_no_replicate_of_the_champion_lets_candidates_train(make_lab: Callable[..., Path]) -> None:
    hours = 2.05 * load(make_lab("rich")).longest_s() / 3600
    harness = LabHarness(make_lab("poor", {"slots = 0": "slots = 1", "device_hours = 8.0": f"device_hours = {hours:.4f}"}))
    commit = propose(harness, 1)
    queue(harness, (commit, 1), (commit, 1))
    assert harness.lab.status().budget.left_s < harness.ledger.open_experiments()[0].reserved_s
    harness.drive()
    starts = harness.ledger.starts(100)
    assert [each.commit for each in starts if not each.by_lab] == [commit] * 2
    harness.close()


def test_a_replicate_of_the_champion_that_is_no_longer_needed_is_dropped(harness: LabHarness) -> None:
    """Such as one that a runner queued, and was killed before it started it, when the candidate was cancelled."""
    settings = harness.lab.settings
    champion = harness.lab.champion()
    left = Experiment(
        id="e-00000000000000a", commit=champion, base=champion, author="lab", hypothesis="h", seed=1, device="cpu", created_at=1.0,
        by_lab=True, reserved_s=1.0,
    )  # fmt: skip
    harness.ledger.enqueue([left], 1e9, None, "", launch=settings.launch())
    harness.drive()
    assert [row["state"] for row in harness.ledger.recent(2)] == ["cancelled"]
    assert harness.ledger.starts(10) == []


def test_a_replicate_of_the_champion_that_was_cancelled_is_trained_again_with_its_seed(harness: LabHarness) -> None:
    settings, champion = harness.lab.settings, harness.lab.champion()
    lost = Experiment(
        id="e-00000000000000a", commit=champion, base=champion, author="lab", hypothesis="h", seed=77, device="cpu", created_at=1.0,
        by_lab=True, reserved_s=1.0,
    )  # fmt: skip
    harness.ledger.enqueue([lost], 1e9, None, "", launch=settings.launch())
    harness.ledger.move(lost.id, ["queued"], state="starting", attempt=1, started_at=1.0)
    harness.ledger.move(lost.id, ["starting"], state="cancelled", finished_at=2.0)
    queue(harness, (propose(harness, 1), 3))
    harness.drive()
    again = [score for score in harness.ledger.scores(champion) if score.seed == 77 and score.state == "finished"]
    assert len(again) == 1


def test_no_commit_starts_twice_in_a_row_while_another_waits(harness: LabHarness) -> None:
    ideas = [propose(harness, n) for n in range(1, 5)]
    queue(harness, *((idea, 3) for idea in ideas), ("champion", 3))
    harness.drive()
    commits = [each.commit for each in harness.ledger.starts(100)]
    assert all(commits.count(idea) == 3 for idea in ideas)
    assert all(one != other for one, other in pairwise(commits[:-3]))  # in the end no other commit waits
