"""What the ledger keeps of the order of launches, and of launches until decided."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Candidacy, Experiment, new_id
from tests.server.test_ledger import experiment, launched

CHAMPION = "c" * 40
IDEA = "1" * 40


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def candidacy(**changes: object) -> Candidacy:
    values: dict[str, object] = {
        "id": new_id("c"), "commit": IDEA, "author": "ada", "device": "cpu", "max_replicates": 16, "created_at": 1.0,
    }  # fmt: skip
    return Candidacy.model_validate(values | changes)


def queue(ledger: Ledger, **changes: object) -> str:
    e = experiment(**changes)
    assert ledger.enqueue([e], 1e9, None, "r", launch=launched())
    return e.id


def start(ledger: Ledger, id: str) -> None:
    assert ledger.move(id, ["queued"], state="starting", attempt=1, started_at=5.0)


def end(ledger: Ledger, id: str, state: str = "finished", **changes: object) -> None:
    assert ledger.move(id, ["starting"], state=state, finished_at=9.0, conditions="x", **changes)


def test_starts_are_kept_in_order_with_what_ran_beside(ledger: Ledger) -> None:
    first, second, third = queue(ledger), queue(ledger, commit=IDEA, author="bob"), queue(ledger, by_lab=True, author="lab")
    for id in (second, third, first):
        start(ledger, id)
    starts = ledger.starts(10)
    assert [each.experiment for each in starts] == [second, third, first]
    assert [each.by_lab for each in starts] == [False, True, False]
    assert starts[0].beside == () and starts[1].beside == ((second, "bob"),)
    assert {id for id, _ in starts[2].beside} == {second, third}
    assert [each.experiment for each in ledger.starts(1)] == [first]
    assert [each.experiment for each in ledger.starts_of([third])] == [third]


def test_a_score_says_when_it_was_launched_and_by_whom(ledger: Ledger) -> None:
    mine, labs = queue(ledger, seed=11), queue(ledger, by_lab=True, seed=12)
    for id in (labs, mine):
        start(ledger, id)
    for id in (mine, labs):
        end(ledger, id, val_bpb=1.0)
    scores = {score.experiment: score for score in ledger.scores(CHAMPION)}
    assert scores[labs].launch < scores[mine].launch
    assert (scores[labs].by_lab, scores[mine].by_lab) == (True, False)
    assert (scores[labs].seed, scores[labs].started_at) == (12, 5.0)


def test_only_replicates_that_the_lab_started_under_these_settings_stand_for_the_champion(ledger: Ledger) -> None:
    ids = [queue(ledger, by_lab=True) for _ in range(3)]
    other = experiment(by_lab=True)
    ledger.enqueue([other], 1e9, None, "r", launch=launched(budget_s=7.0))
    for id in [*ids, other.id, queue(ledger)]:
        start(ledger, id)
    end(ledger, ids[1], "cancelled")
    end(ledger, ids[2], "crashed")
    assert ledger.champion_replicates(CHAMPION, launched()) == [ids[0], ids[2]]
    assert ledger.champion_replicates(CHAMPION, launched(budget_s=7.0)) == [other.id]


def test_the_first_of_each_commit_is_read_from_a_long_queue(ledger: Ledger) -> None:
    for n in range(30):
        queue(ledger, commit=f"{n % 10}" * 40, created_at=float(n))
    queue(ledger, by_lab=True, commit="9" * 40, created_at=0.0)
    heads = ledger.first_queued(["7" * 40], limit=3)
    assert {(e.commit[0], e.created_at, more) for e, more in heads} == {("0", 0.0, 2), ("1", 1.0, 2), ("2", 2.0, 2), ("7", 7.0, 2)}
    assert [e.commit[0] for e in ledger.queued_champion_replicates()] == ["9"]


def test_the_first_of_a_long_queue_are_those_that_a_look_at_all_of_it_finds(ledger: Ledger) -> None:
    rng = random.Random(3)
    for n in range(150):
        queue(
            ledger, commit=f"{rng.randrange(25):040}", author=rng.choice("abcdef"), created_at=float(rng.randrange(60)), by_lab=n % 40 == 0
        )
    waiting = ledger.open_experiments("queued")
    for limit, first in itertools.product((1, 5, 20, 1000), ([], [f"{3:040}", f"{7:040}", "x"])):
        heads: dict[tuple[str, str], Experiment] = {}
        for e in waiting:
            if not e.by_lab:
                heads.setdefault((e.author, e.commit), e)
        turns, ranked = Counter[tuple[bool, str]](), []
        for e in sorted(heads.values(), key=lambda e: (e.created_at, e.id)):
            turns[e.commit in first, e.author] += 1
            ranked.append((turns[e.commit in first, e.author], e.created_at, e.id, e))
        unknown = sorted(each for each in ranked if each[3].commit not in first)
        chosen = [each for n, each in enumerate(unknown) if each[0] == 1 or n < limit]
        expected = [e for *_, e in sorted([*chosen, *(each for each in ranked if each[3].commit in first)])]
        found = ledger.first_queued(first, limit)
        assert [e.id for e, _ in found] == [e.id for e in expected]
        assert all(more == sum(other.commit == e.commit for other in waiting) - 1 for e, more in found)


def test_authors_take_turns_in_the_queue_and_among_the_launches_until_decided(ledger: Ledger) -> None:
    for n in range(30):
        queue(ledger, commit=f"{n:040}", author="ada", created_at=float(n))
    for n in range(30, 33):
        queue(ledger, commit=f"{n:040}", author=f"bob{n}", created_at=float(n))
    assert [int(e.commit) for e, _ in ledger.first_queued([], limit=5)] == [0, 30, 31, 32, 1]
    assert [int(e.commit) for e, _ in ledger.first_queued([], limit=2)] == [0, 30, 31, 32], "each author has a turn"
    for n, author in enumerate(["ada", "ada", "ada", "bob"]):
        wanted = candidacy(commit=f"{n:040}", author=author, created_at=float(n))
        ledger.enqueue([experiment(commit=wanted.commit, candidacy=wanted.id)], 1e9, None, "r", launch=launched(), candidacy=wanted)
    assert [int(each.commit) for each in ledger.open_candidacies(limit=3)] == [0, 3, 1]


def test_a_candidacy_has_one_open_experiment_and_ends_once(ledger: Ledger) -> None:
    wanted = candidacy()
    first = experiment(commit=IDEA, candidacy=wanted.id)
    assert ledger.enqueue([first], 1e9, "some-key", "r", launch=launched(), candidacy=wanted)
    assert ledger.answer("some-key", "r") == [wanted.id, first.id]
    assert ledger.enqueue([experiment(commit=IDEA, candidacy=wanted.id)], 1e9, None, "r") is None
    assert ledger.open_trainings() == {wanted.id: [first.id]}
    start(ledger, first.id)
    end(ledger, first.id, cost_s=30.0, cost_usd=0.5)
    assert ledger.enqueue([experiment(commit=CHAMPION, candidacy=wanted.id)], 1e9, None, "r") is None  # not its commit
    second = experiment(commit=IDEA, candidacy=wanted.id)
    assert ledger.enqueue([second], 1e9, None, "r")
    (kept,) = ledger.open_candidacies()
    assert (kept.replicates, kept.spent_s, kept.spent_usd) == (2, 30.0, 0.5)
    assert ledger.trainings_of(wanted.id) == [first.id, second.id]
    ended = ledger.move_candidacy(wanted.id, state="decided", verdict="futile")
    assert ended is not None and ended.ended_at
    assert ledger.move_candidacy(wanted.id, state="cancelled") is None
    ledger.request_cancel(second.id)
    assert ledger.enqueue([experiment(commit=IDEA, candidacy=wanted.id)], 1e9, None, "r") is None
    assert ledger.open_candidacies() == [] and ledger.candidacy_of(IDEA) == ledger.candidacy(wanted.id)
