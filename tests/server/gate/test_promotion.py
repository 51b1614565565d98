"""The champion moves only for a commit that is better beyond noise, once, and winners of parallel branches are stacked and tested again."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.proposals import growth
from tests.server.measured import MeasuredLab

BETTER = [1.40, 1.41, 1.39]
CHAMPION_THEN = [1.40, 1.41, 1.39, 1.405, 1.395, 1.402, 1.398, 1.4001]
CHAMPION = [1.60, 1.61, 1.59, 1.605, 1.595, 1.602, 1.598, 1.60001]


@pytest.fixture
def renting(make_lab: Callable[..., Path]) -> Iterator[MeasuredLab]:
    """A lab that may screen on an L4 what it confirms on an H100."""
    kinds = 'backend = "modal"\ngpus = ["H100", "L4"]'
    bench = MeasuredLab(make_lab(toml={'profile = "tiny"': 'profile = "h100"', 'backend = "local"': kinds}))
    yield bench
    bench.close()


@pytest.fixture
def bench(measured: MeasuredLab) -> MeasuredLab:
    (measured.root / "train.py").write_text("", encoding="utf-8")  # what the user has in the work tree plays no part
    return measured


def settled(bench: MeasuredLab) -> tuple[str, str]:
    """A measured champion and a better proposal."""
    champion = bench.lab.status().champion.commit
    bench.measure(champion, [*CHAMPION])
    better = bench.propose("DEPTH = ", "DEPTH = 1 + ")
    bench.measure(better, [*BETTER])
    return champion, better


def test_a_better_commit_becomes_the_champion(bench: MeasuredLab) -> None:
    champion, better = settled(bench)
    answer = bench.lab.promote_commit(better[:10], "ada")
    assert answer.promoted and answer.champion == better and answer.previous == champion and "It holds" not in answer.note
    assert answer.verdict.p is not None and answer.verdict.p < 0.001
    assert bench.git("rev-parse", "research") == better
    assert bench.git("rev-parse", "main") == champion
    status = bench.lab.status()
    assert status.champion.commit == better and status.champion.mean == pytest.approx(1.40) and status.promotions == 1


def test_a_promoted_stack_is_to_be_trained_without_each_of_its_changes(bench: MeasuredLab) -> None:
    bench.measure(bench.lab.champion(), [*CHAMPION])
    both = bench.propose("HEAD_DIM = 32", "HEAD_DIM = 16", base=bench.propose("DEPTH = ", "DEPTH = 1 + "))
    bench.measure(both, [*BETTER])
    promoted = bench.lab.promote_commit(both, "ada")
    assert promoted.promoted and "It holds 2 changes: DEPTH = to DEPTH = 1 +; HEAD_DIM = 32 to HEAD_DIM = 16." in promoted.note
    assert "changes" not in bench.lab.promote_commit(both, "ada").note


def test_the_owner_takes_a_promotion_back_and_no_agent_can_repeat_it(bench: MeasuredLab, capsys: pytest.CaptureFixture[str]) -> None:
    champion, better = settled(bench)
    assert bench.lab.promote_commit(better, "ada").promoted
    older = bench.lab.promote_commit(champion, "ada")
    assert not older.promoted and "autoresearch-mcp demote" in older.note and older.verdict.code == "already_in"
    assert cli.main(["demote", "--reason", "it cheats", str(bench.root)]) == 0
    assert f"{champion[:12]} again" in capsys.readouterr().out
    assert bench.git("rev-parse", "research") == champion == bench.lab.status().champion.commit
    assert bench.lab.status().promotions == 1, "the promotion stays in the record"
    (promotion, demotion) = bench.ledger.promotions()
    assert demotion.verdict["undoes"] == promotion.id and demotion.verdict["reason"] == "it cheats"
    assert demotion.verdict["candidate_mean"] == pytest.approx(1.6, abs=0.01), "what the picture draws from then on"
    again = bench.lab.promote_commit(better, "ada")
    assert not again.promoted and "took the promotion" in again.note and bench.lab.champion() == champion
    assert bench.lab.promote_commit(better, "owner", "a person").promoted
    assert cli.main(["demote", str(bench.root)]) == 0 and bench.lab.champion() == champion
    assert cli.main(["demote", str(bench.root)]) == 2 and "first" in capsys.readouterr().err


def test_the_owners_own_commit_is_told_and_becomes_the_champion(bench: MeasuredLab, capsys: pytest.CaptureFixture[str]) -> None:
    champion, better = settled(bench)
    bench.git("checkout", "-q", "train.py")

    def commit(path: str, text: str) -> str:
        with (bench.root / path).open("a", encoding="utf-8") as file:
            file.write(text)
        bench.git("-c", "user.name=o", "-c", "user.email=o@example.org", "commit", "-qam", "Mine")
        return bench.git("rev-parse", "HEAD")

    def ahead() -> str:
        return " ".join(warning for warning in bench.lab.status().warnings if "main is ahead" in warning)

    commit("orchestrator.md", "A note.\n")
    assert not ahead(), "no training runs that"
    repaired = commit("train.py", "REPAIRED = True\n")
    assert "it changes train.py" in ahead() and "git merge" not in ahead() and "`autoresearch-mcp adopt main`" in ahead()
    assert bench.lab.champion() == champion and not bench.lab.unheard("ada")
    assert cli.main(["adopt", "main", "--reason", "it was broken", str(bench.root)]) == 0
    assert repaired[:12] in capsys.readouterr().out and bench.lab.champion() == repaired and not ahead()
    adoption = bench.ledger.promotions()[-1]
    assert adoption.is_adoption and adoption.verdict["reason"] == "it was broken" and bench.lab.status().promotions == 0
    assert "owner changed the code" in bench.lab.unheard("ada")[0] and bench.lab.plot_progress().png
    assert cli.main(["adopt", "main", str(bench.root)]) == 2 and "champion already" in capsys.readouterr().err
    assert "retrain" in bench.lab.promote_commit(better, "ada").model_dump_json(exclude_none=True)

    assert cli.main(["demote", str(bench.root)]) == 0 and bench.lab.champion() == champion
    assert bench.lab.promote_commit(better, "ada").promoted
    assert "first `git merge research` there" in ahead()
    assert cli.main(["adopt", "main", str(bench.root)]) == 2 and "would drop what was promoted" in capsys.readouterr().err
    assert cli.main(["adopt", "nothing", str(bench.root)]) == 2 and bench.lab.champion() == better


def test_an_owner_who_works_on_the_champions_branch_is_told_that_it_moved(bench: MeasuredLab) -> None:
    champion, better = settled(bench)
    bench.git("stash", "-q")
    bench.git("switch", "-q", "research")
    (bench.root / "train.py").write_text("mine\n", encoding="utf-8")
    answer = bench.lab.promote_commit(better, "ada")
    assert answer.promoted and "has the branch research checked out" in answer.note
    assert any("undo a promotion" in warning for warning in bench.lab.status().warnings)
    bench.git("reset", "-q", "--hard")
    assert not any("promotion" in warning for warning in bench.lab.status().warnings)
    assert bench.git("rev-parse", "HEAD") == better != champion


def test_what_a_source_holds_beyond_the_champions_comes_off_its_gain(bench: MeasuredLab) -> None:
    champion = bench.lab.status().champion.commit
    bench.measure(champion, [*CHAMPION])
    text = random.Random(1).randbytes(3000).hex()
    stored = bench.propose("DEPTH = ", f"STORE = '{text}'\nDEPTH = ")
    bench.measure(stored, [metric - 0.02 for metric in CHAMPION[:5]])
    answer = bench.lab.promote_commit(stored, "ada")
    assert not answer.promoted and "beyond the champion's, 0.03" in answer.verdict.reason
    assert answer.verdict.gain is not None and answer.verdict.gain < 0 and answer.champion == champion
    honest = bench.propose("DEPTH = ", "DEPTH = 0 + ")
    bench.measure(honest, [metric - 0.0201 for metric in CHAMPION[:5]])
    assert bench.lab.promote_commit(honest, "ada").verdict.gain == pytest.approx(0.02, abs=0.005)


def test_a_charge_is_paid_once_and_a_shorter_source_is_no_gain_by_itself() -> None:
    assert growth.charge(400, 0, "cpu") == 0, "the first bytes are free"
    assert growth.charge(1512, 0, "cpu") == pytest.approx(0.0125)
    assert growth.charge(2512, 1512, "cpu") == pytest.approx(0.0125)
    assert growth.charge(0, 2000, "cpu") == growth.charge(2000, 2000, "cpu") == 0
    assert growth.charge(1512, 0, "h100") < 0.0002


def test_a_commit_within_noise_is_refused_with_the_numbers(bench: MeasuredLab) -> None:
    champion, _ = settled(bench)
    same = bench.propose("DEPTH = ", "DEPTH = 2 + ")
    bench.measure(same, [1.60, 1.59, 1.62])
    answer = bench.lab.promote_commit(same, "ada")
    assert not answer.promoted and answer.verdict.code == "futile"
    assert answer.verdict.champion_mean == pytest.approx(1.60) and answer.verdict.candidate_mean == pytest.approx(1.60333, abs=1e-4)
    assert bench.git("rev-parse", "research") == champion


def test_too_few_replicates_and_failures_leave_a_candidate_open(bench: MeasuredLab) -> None:
    champion = bench.lab.status().champion.commit
    bench.measure(champion, [*CHAMPION])
    few = bench.propose("DEPTH = ", "DEPTH = 1 + ")
    bench.measure(few, BETTER[:2])
    answer = bench.lab.promote_commit(few, "ada")
    assert answer.verdict.code == "continue" and "Replicate 3 of it decides next." in answer.note
    bench.measure(few, [None, None])
    verdict = bench.lab.promote_commit(few, "ada").verdict
    assert not verdict.promote and verdict.n == 4 and "2 replicates of it failed" in verdict.reason


def test_metrics_of_other_conditions_do_not_count(bench: MeasuredLab) -> None:
    champion = bench.lab.status().champion.commit
    bench.measure(champion, [*CHAMPION], conditions="60 seconds")
    other = bench.propose("DEPTH = ", "DEPTH = 1 + ")
    bench.measure(other, [*BETTER], conditions="120 seconds")
    answer = bench.lab.promote_commit(other, "ada")
    assert not answer.promoted and answer.verdict.code == "champion"


def test_what_was_screened_on_a_cheaper_device_is_compared_with_nothing_else_and_promoted_by_the_reference_only(
    renting: MeasuredLab,
) -> None:
    lab, champion = renting.lab, renting.lab.status().champion.commit
    idea = renting.propose("DEPTH = ", "DEPTH = 1 + ")
    renting.measure(champion, [*CHAMPION], "on an H100", device="h100")
    for commit, values in ((champion, [2.60, 2.61, 2.59]), (idea, [0.40, 0.41, 0.39])):
        renting.measure(commit, [*values], "on an L4", device="l4")
    status = lab.status()
    assert (status.champion.n, status.champion.mean) == (8, pytest.approx(1.6, abs=1e-3)), "the reference's, though the L4's are newer"
    assert [line.commit for line in status.leaderboard] == [champion]
    refused = lab.promote_commit(idea, "ada")
    assert not refused.promoted and refused.verdict.n == 0 and "Only results on h100 count" in refused.verdict.reason
    (precedent,) = lab.search_memory("DEPTH = to DEPTH = 1 +").proposed
    assert (precedent.ended, precedent.mean_val_bpb) == (3, None)
    assert {row["device"] for row in lab.query_experiments().rows} == {"h100", "l4"}
    drawn = lab.plot_progress().text
    assert "Best single run: 1.5900" in drawn and "6 runs on other kinds of device" in drawn

    renting.measure(idea, [*BETTER], "on an H100", device="h100")
    assert lab.search_memory("DEPTH = to DEPTH = 1 +").proposed[0].mean_val_bpb == pytest.approx(1.4)
    promoted = lab.promote_commit(idea, "ada")
    assert promoted.promoted and (promoted.verdict.n, promoted.verdict.candidate_mean) == (3, pytest.approx(1.4))
    against = lab.get_experiment(
        next(row["id"] for row in lab.query_experiments(ExperimentQuery(commit=champion)).rows if row["device"] == "l4")
    )
    assert "worse than the champion's mean 0.4000 (n=3" in against.against_champion, "an L4's run is held against the L4's"


def test_a_candidate_that_the_gate_left_open_is_in_the_picture_until_it_is_decided(bench: MeasuredLab) -> None:
    bench.measure(bench.lab.champion(), [*CHAMPION])
    close = bench.propose("DEPTH = ", "DEPTH = 2 + ")
    bench.measure(close, [1.59, 1.60])
    assert "Undecided" not in bench.lab.plot_progress().text
    assert bench.lab.promote_commit(close, "ada").verdict.code == "continue"
    assert f"{close[:12]} 1.5950" in bench.lab.plot_progress().text.partition("Undecided, with 95 % intervals: ")[2]


def test_winners_of_parallel_branches_are_stacked_and_trained_again(bench: MeasuredLab) -> None:
    champion, first = settled(bench)
    second = bench.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ", base=champion)
    bench.measure(second, [1.45, 1.46, 1.44])
    assert bench.lab.promote_commit(first, "ada").promoted

    answer = bench.lab.promote_commit(second, "bob")
    assert not answer.promoted and answer.verdict.code == "stale_base"
    stacked = answer.retrain
    assert stacked is not None
    code = bench.git("show", f"{stacked}:train.py")
    assert "DEPTH = 1 + " in code and "HEAD_DIM = 3 + " in code
    assert bench.git("rev-parse", f"{stacked}^") == first
    assert bench.lab.promote_commit(second, "bob").retrain == stacked

    bench.measure(first, CHAMPION_THEN)
    bench.measure(stacked, [1.30, 1.31, 1.29])
    ready = bench.lab.promote_commit(second, "bob")
    assert ready.verdict.code == "stale_base" and "promote that commit" in ready.note
    assert bench.lab.promote_commit(stacked, "bob").promoted
    assert bench.git("rev-list", "--count", f"{champion}..research") == "2"


def test_a_combination_that_only_crashes_was_tested_too(bench: MeasuredLab) -> None:
    champion, first = settled(bench)
    second = bench.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ", base=champion)
    bench.measure(second, [1.20, 1.21, 1.19])
    assert bench.lab.promote_commit(first, "ada").promoted
    stacked = bench.lab.promote_commit(second, "ada").retrain
    assert stacked is not None
    bench.measure(first, CHAMPION_THEN)
    bench.measure(stacked, [None, None, None])
    assert bench.lab.promote_commit(second, "ada").verdict.n == 0, "only what is measured beside the new champion counts"
    bench.measure(second, [1.20, 1.21, 1.19])
    assert bench.lab.promote_commit(second, "ada").promoted


def test_what_the_hidden_split_does_not_confirm_and_what_had_no_sandbox_is_refused(bench: MeasuredLab) -> None:
    champion = bench.lab.status().champion.commit
    bench.measure(champion, [*CHAMPION])
    overfit = bench.propose("DEPTH = ", "DEPTH = 1 + ")
    bench.measure(overfit, [*BETTER], hidden=0.3)
    answer = bench.lab.promote_commit(overfit, "ada")
    assert not answer.promoted and answer.verdict.code == "not_confirmed"
    loose = bench.propose("DEPTH = ", "DEPTH = 2 + ")
    bench.measure(loose, [*BETTER], sandbox="unsandboxed")
    answer = bench.lab.promote_commit(loose, "ada")
    assert not answer.promoted and answer.verdict.code == "unsandboxed"
    assert bench.lab.status().champion.commit == champion


def test_a_stale_loser_is_not_worth_a_retrain(bench: MeasuredLab) -> None:
    champion, first = settled(bench)
    loser = bench.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ", base=champion)
    bench.measure(loser, [1.60, 1.61, 1.60])
    assert bench.lab.promote_commit(first, "ada").promoted
    answer = bench.lab.promote_commit(loser, "ada")
    assert answer.verdict.code == "futile" and answer.retrain is None


def test_when_the_combination_was_tested_the_change_may_win_by_itself(bench: MeasuredLab) -> None:
    champion, first = settled(bench)
    second = bench.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ", base=champion)
    bench.measure(second, [1.20, 1.21, 1.19])
    assert bench.lab.promote_commit(first, "ada").promoted
    stacked = bench.lab.promote_commit(second, "ada").retrain
    assert stacked is not None
    bench.measure(first, CHAMPION_THEN)
    bench.measure(stacked, [1.70, 1.71, 1.69])
    bench.measure(second, [1.20, 1.21, 1.19])
    answer = bench.lab.promote_commit(second, "ada")
    assert answer.promoted and answer.previous == first
    assert bench.git("show", f"{answer.champion}:train.py") == bench.git("show", f"{second}:train.py")
    assert bench.git("rev-parse", f"{answer.champion}^") == first
    assert bench.lab.status().champion.mean == pytest.approx(1.20)
    again = bench.lab.promote_commit(second, "ada")  # by an agent that did not hear the answer
    assert again.verdict.code == "is_champion" and again.champion == answer.champion


def test_a_candidate_on_an_old_base_may_replace_the_champion_once_it_is_confirmed_what_that_leaves_behind(bench: MeasuredLab) -> None:
    champion, first = settled(bench)
    second = bench.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ", base=champion)
    assert bench.lab.promote_commit(first, "ada").promoted
    bench.measure(first, CHAMPION_THEN)
    bench.measure(second, [1.20, 1.21, 1.19])
    offered = bench.lab.promote_commit(second, "ada")
    assert offered.verdict.code == "stale_base" and offered.retrain is not None and bench.lab.champion() == first
    assert (offered.verdict_of, offered.verdict_against) == (offered.retrain, first)
    assert "beats this champion too, but would leave behind: DEPTH = to DEPTH = 1 +." in offered.note and "confirm=true" in offered.note
    replaced = bench.lab.promote_commit(second, "ada", confirm=True)
    assert replaced.promoted and replaced.previous == first and "the new one is without: DEPTH = to DEPTH = 1 +." in replaced.note
    assert bench.git("show", f"{replaced.champion}:train.py") == bench.git("show", f"{second}:train.py")


def test_confirming_lets_nothing_pass_that_the_gate_refuses(bench: MeasuredLab) -> None:
    champion, first = settled(bench)
    second = bench.propose("HEAD_DIM = ", "HEAD_DIM = 3 + ", base=champion)
    assert bench.lab.promote_commit(first, "ada").promoted
    bench.measure(first, CHAMPION_THEN)
    bench.measure(second, [1.50, 1.51, 1.49])
    refused = bench.lab.promote_commit(second, "ada", confirm=True)
    assert not refused.promoted and refused.retrain is not None and "beats this champion" not in refused.note


def test_of_many_promotions_at_once_one_moves_the_champion(bench: MeasuredLab) -> None:
    champion, _ = settled(bench)
    rivals = [bench.propose("DEPTH = ", f"DEPTH = {n} + ", base=champion) for n in range(3, 7)]
    for n, rival in enumerate(rivals):
        bench.measure(rival, [1.0 + n / 100, 1.01 + n / 100, 0.99 + n / 100])
    answers = []
    threads = [threading.Thread(target=lambda r=rival: answers.append(bench.lab.promote_commit(r, "ada"))) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [a.champion for a in answers if a.promoted]
    assert winners[0] in rivals and bench.git("rev-parse", "research") == winners[-1]
    assert bench.lab.status().promotions == len(winners)


@pytest.mark.parametrize("moved", [True, False])
def test_a_crash_in_the_middle_of_a_promotion_leaves_all_or_nothing(bench: MeasuredLab, moved: bool) -> None:
    champion, better = settled(bench)
    from autoresearch_mcp.server.models import Promotion

    bench.ledger.intend_promotion(
        Promotion(id=new_id("p"), commit=better, previous=champion, author="ada", approved_by="policy", verdict={}, created_at=1.0)
    )
    if moved:
        bench.git("update-ref", "refs/heads/research", better, champion)
    bench.lab.close()
    bench.lab = Lab(bench.root)
    status = bench.lab.status()
    assert (status.champion.commit, status.promotions) == ((better, 1) if moved else (champion, 0))
    assert bench.lab.promote_commit(better, "ada").promoted is not moved


def test_where_a_person_must_approve_the_champion_waits(make_lab: Callable[..., Path]) -> None:
    bench = MeasuredLab(make_lab("careful", {'approval = "none"': 'approval = "human"'}))
    champion, better = settled(bench)
    answer = bench.lab.promote_commit(better, "ada")
    assert not answer.promoted and answer.verdict.code == "awaiting_approval" and answer.champion == champion
    assert bench.lab.promote_commit(better, "ada", approved_by="the owner").promoted
    assert bench.ledger.promotions()[0].approved_by == "the owner"
    bench.close()


def test_only_proposals_can_be_promoted(bench: MeasuredLab) -> None:
    champion, _ = settled(bench)
    assert bench.lab.promote_commit(champion, "ada").verdict.code == "is_champion"
    (bench.root / "train.py").write_text("print('by hand')\n", encoding="utf-8")
    bench.git("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qam", "by hand")
    with pytest.raises(LabError) as error:
        bench.lab.promote_commit(bench.git("rev-parse", "HEAD"), "ada")
    assert error.value.code == "not_a_proposal"
