"""The gate on a ledger: near-copies share a ticket, decisions stay, and what was spent can be counted."""

import threading
from typing import Any

import pytest

from autoresearch_mcp.server.models import Verdict
from tests.server.measured import MeasuredLab

CHAMPION = [1.60, 1.61, 1.59, 1.605, 1.595, 1.602, 1.598, 1.60001]
BETTER = [1.40, 1.41, 1.39]
SAME = [1.6 + (k - 8) / 1000 for k in range(16)]


@pytest.fixture
def bench(measured: MeasuredLab) -> MeasuredLab:
    measured.measure(measured.lab.champion(), [*CHAMPION])
    return measured


def ask(bench: MeasuredLab, commit: str) -> Verdict:
    return bench.lab.promote_commit(commit, "ada").verdict


def end_badly(bench: MeasuredLab, commit: str, **changes: Any) -> None:
    """Let a replicate of the commit end like this."""
    (id,) = bench.lab.launch_training(commit, "ada").experiments
    bench.ledger.move(id, ["queued"], state="starting", started_at=1.0)
    bench.ledger.move(id, ["starting"], finished_at=99.0, **changes)


def test_of_near_copies_the_one_that_was_launched_first_decides_for_all(bench: MeasuredLab) -> None:
    first = bench.propose("DEPTH = 2", "DEPTH = 3")
    copies = [bench.propose("DEPTH = 2", f"DEPTH = 2 + {n} - {n - 1}") for n in range(2, 6)]
    for number, commit in enumerate((first, *copies)):
        bench.measure(commit, [value + number / 1e5 for value in SAME[-3:]])
    copy = ask(bench, copies[0])
    assert (
        (copy.code, copy.n) == ("near_copy", 3)
        and first[:12] in copy.reason
        and bench.lab.gate.repeats(copies[0], bench.lab.champion()) == []
    )
    bench.measure(first, SAME)
    decided = ask(bench, first)
    assert decided.final and decided.code == "futile" and decided.n == 16
    lucky = bench.propose("DEPTH = 2", "DEPTH = 2 + 7 - 6")
    bench.measure(lucky, BETTER)
    again = ask(bench, lucky)
    assert not again.promote and again.n == 16 and "near-copy" in again.reason
    assert bench.lab.expected_false_promotions() == pytest.approx(0.005), "one ticket"


def test_the_same_weights_are_a_near_copy_whatever_the_code(bench: MeasuredLab) -> None:
    first, second = bench.propose("DEPTH = 2", "DEPTH = 3"), bench.propose("DEPTH = 2", "DEPTH = 4")
    bench.measure(first, [1.7], weights="w")
    bench.measure(first, [1.71, 1.72])
    bench.measure(second, [1.7], weights="w")
    bench.measure(second, BETTER)
    assert (ask(bench, second).code, ask(bench, second).n) == ("near_copy", 3)


def test_what_is_decided_stays_decided_until_the_champion_or_the_conditions_change(bench: MeasuredLab) -> None:
    commit = bench.propose("DEPTH = 2", "DEPTH = 3")
    bench.measure(commit, SAME)
    assert ask(bench, commit).final
    for _ in range(2):
        bench.measure(bench.lab.champion(), [1.9, 1.91, 1.89, 1.905, 1.895, 1.902, 1.898, 1.9001])
    again = ask(bench, commit)
    assert again.final and again.code == "futile" and "It stays so" in again.reason
    bench.measure(bench.lab.champion(), [*CHAMPION], conditions="longer")
    bench.measure(commit, BETTER, conditions="longer")
    assert ask(bench, commit).promote


def test_the_owner_can_open_a_decision_with_other_rules(bench: MeasuredLab) -> None:
    commit = bench.propose("DEPTH = 2", "DEPTH = 3")
    bench.measure(commit, SAME)
    assert ask(bench, commit).final
    toml = bench.root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("max_replicates = 16", "max_replicates = 32"), encoding="utf-8")
    assert not ask(bench, commit).final


def test_a_failure_in_scoring_bars_a_commit_for_good(bench: MeasuredLab) -> None:
    broken = bench.propose("DEPTH = 2", "DEPTH = 3")
    bench.measure(broken, BETTER)
    end_badly(bench, broken, state="crashed", fault="code", ended_in="scoring")
    assert ask(bench, broken).code == "barred"
    bench.measure(broken, [value + 0.001 for value in BETTER])
    assert ask(bench, broken).code == "barred"


def test_a_replicate_that_was_cancelled_while_it_ran_is_owed_with_its_seed(bench: MeasuredLab) -> None:
    commit, champion = bench.propose("DEPTH = 2", "DEPTH = 3"), bench.lab.champion()
    bench.measure(commit, BETTER)
    end_badly(bench, commit, state="cancelled", cancelled_by="ada", cancelled_running=True)
    gate = bench.lab.gate
    (seed,) = gate.repeats(commit, champion)
    verdict = ask(bench, commit)
    assert verdict.code == "continue" and str(seed) in verdict.next
    assert gate.champion_repeats(champion) == []


def test_nothing_is_decided_while_a_replicate_is_being_trained(bench: MeasuredLab) -> None:
    commit = bench.propose("DEPTH = 2", "DEPTH = 3")
    bench.measure(commit, BETTER)
    (id,) = bench.lab.launch_training(commit, "ada").experiments
    bench.ledger.move(id, ["queued"], state="starting", started_at=1.0)
    assert "1 replicate of it is being trained" in ask(bench, commit).reason
    bench.ledger.move(id, ["starting"], state="finished", val_bpb=1.395, finished_at=99.0, conditions="other")
    assert ask(bench, commit).promote


def test_looks_that_nobody_acts_on_spend_nothing_and_each_candidate_spends_its_level_once(bench: MeasuredLab) -> None:
    commits = [bench.propose("DEPTH = 2", f"DEPTH = {n}") for n in (3, 4)]
    for commit in commits:
        bench.measure(commit, SAME[:4])
        bench.lab.gate.verdict(commit, bench.lab.champion(), record=False)
    assert bench.lab.expected_false_promotions() == 0
    for commit in (*commits, *commits):
        ask(bench, commit)
    assert bench.lab.expected_false_promotions() == pytest.approx(0.01)


def test_of_two_candidates_decided_at_once_one_wins_and_the_other_is_measured_against_it(bench: MeasuredLab) -> None:
    rivals = [bench.propose("DEPTH = 2", "DEPTH = 3"), bench.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ")]
    for number, rival in enumerate(rivals):
        bench.measure(rival, [value - number / 1e5 for value in BETTER])
    answers = list[Any]()
    threads = [threading.Thread(target=lambda r=rival: answers.append(bench.lab.promote_commit(r, "ada"))) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.promoted for each in answers) == [False, True]
    (loser,) = [each for each in answers if not each.promoted]
    assert loser.verdict.code == "stale_base" and loser.verdict.n == 0


def test_only_what_was_launched_under_the_champion_counts_against_it(bench: MeasuredLab) -> None:
    first, second = bench.propose("DEPTH = 2", "DEPTH = 3"), bench.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ")
    bench.measure(first, BETTER)
    assert bench.lab.promote_commit(first, "ada").promoted
    stacked = bench.lab.promote_commit(second, "ada").retrain
    assert stacked is not None
    bench.measure(stacked, [1.2, 1.21, 1.19])
    verdict = ask(bench, stacked)
    assert (verdict.code, verdict.m) == ("champion", 0), "what won the champion its crown says nothing of it"
