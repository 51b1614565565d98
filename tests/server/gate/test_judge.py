"""The gate promotes what is better beyond noise, says of the rest why not and what happens next, and lets nobody choose what counts."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest

from autoresearch_mcp.server.gate.attempts import owed_seeds, set_aside, without_repeated
from autoresearch_mcp.server.gate.judge import judge
from autoresearch_mcp.server.gate.spread import pooled_sd, sd
from autoresearch_mcp.server.models import ExperimentState, Score
from autoresearch_mcp.server.settings import MetricSection, PromotionSection

_clock = itertools.count(1)


def scores(
    commit: str,
    values: Sequence[float | None],
    conditions: str = "cpu-60s",
    state: ExperimentState = "finished",
    started: bool = True,
    hidden: Sequence[float | None] | None = None,
    **evidence: Any,
) -> list[Score]:
    """Attempts of a commit, each started after all that were made before. The champion's are the lab's own."""
    made = []
    for value, test in zip(values, values if hidden is None else hidden, strict=True):
        at = next(_clock)
        facts = {"seed": at, "by_lab": commit == "champion", "launch": at, "state": "crashed" if value is None else state, **evidence}
        if value is None and state != "finished":
            facts["state"] = state
        made.append(
            Score(
                experiment=f"{commit}-{at}",
                commit=commit,
                conditions=conditions,
                device=facts.pop("device", "cpu"),
                val_bpb=value,
                started=started,
                finished_at=facts.pop("finished_at", float(at)),
                test_bpb=test,
                **facts,
            )
        )
    return made


LEVELS = [1.500, 1.502, 1.498, 1.501, 1.499, 1.5015, 1.4985, 1.5005]
RULES = PromotionSection()
CHAMPION = scores("champion", LEVELS)
BETTER = [1.400, 1.403, 1.398]


def test_one_value_has_no_spread_and_groups_are_pooled_by_their_degrees_of_freedom() -> None:
    assert sd([1.4]) is None
    assert pooled_sd([[1.0, 1.2], [2.0, 2.1, 2.3, 2.2], [5.0]]) == pytest.approx(((0.02 + 0.05) / 4) ** 0.5)
    assert pooled_sd([[1.0], []]) is None


def test_a_clearly_better_candidate_is_promoted_with_its_numbers() -> None:
    verdict = judge(scores("candidate", BETTER), CHAMPION, RULES)
    assert verdict.promote and verdict.code == "promote" and verdict.final
    assert (verdict.n, verdict.m) == (3, 8)
    assert verdict.gain == pytest.approx(0.09967, abs=1e-4) and verdict.p is not None and verdict.p < 1e-4
    assert verdict.nu == 9 and verdict.noise == pytest.approx(0.00174, abs=1e-5) and verdict.gain_sd == pytest.approx(57.2, abs=0.1)
    assert "1.4003" in verdict.reason and "1.5001" in verdict.reason


def test_an_open_candidate_hears_what_would_promote_and_what_happens_next() -> None:
    verdict = judge(scores("candidate", [1.4975, 1.4985, 1.497]), CHAMPION, RULES)
    assert not verdict.promote and verdict.code == "continue"
    assert verdict.needed_gain is not None and f"a gain of {verdict.needed_gain:.4f} promotes" in verdict.reason
    assert verdict.next == "Replicate 4 of it decides next."


def test_a_worse_candidate_is_futile_and_nobody_is_invited_to_ask_again() -> None:
    verdict = judge(scores("candidate", [1.6, 1.601, 1.61]), CHAMPION, RULES)
    assert not verdict.promote and verdict.code == "futile" and "-0.10" in verdict.reason
    assert "ask" not in verdict.reason + verdict.next and " again " not in verdict.reason + verdict.next


def test_the_champion_is_not_promoted_again() -> None:
    assert judge(CHAMPION, CHAMPION, RULES).code == "is_champion"


def test_a_champion_with_too_few_fresh_replicates_is_trained_by_the_lab_first() -> None:
    for m, missing in ((0, 4), (2, 2), (5, 3)):
        verdict = judge(scores("candidate", BETTER), CHAMPION[:m], RULES)
        assert verdict.code == "champion" and f"trains {missing} more replicates of the champion" in verdict.next
    assert judge([], [], RULES).code == "continue"


def test_replicates_of_the_champion_that_somebody_else_launched_do_not_count() -> None:
    others = scores("champion", [9.0] * 20, by_lab=False)
    verdict = judge(scores("candidate", [1.5, 1.502, 1.498]), CHAMPION + others, RULES)
    assert verdict.m == 8 and verdict.champion_mean == pytest.approx(1.5, abs=1e-3)


def test_of_the_champions_replicates_the_newest_count_that_ended_before_the_candidates_newest() -> None:
    at = next(_clock)
    champion = scores("champion", [1.6 + k / 1e5 for k in range(8)]) + scores("champion", [1.5 + k / 1e4 for k in range(16)])
    candidate = scores("candidate", BETTER)
    later = scores("champion", [1.3] * 9)
    verdict = judge(candidate, champion + later, RULES)
    assert at and verdict.m == 16 and verdict.champion_mean == pytest.approx(1.50075)
    few = judge(candidate, champion[:5] + scores("champion", [1.55 + k / 1e4 for k in range(20)]), RULES)
    assert few.m == 16 and few.champion_mean == pytest.approx((5 * 1.60002 + 11 * 1.5505) / 16, abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_run_without_a_finite_metric_is_a_failure(value: float) -> None:
    verdict = judge(scores("candidate", [*BETTER[:2], value]), CHAMPION, RULES)
    assert not verdict.promote


def test_metrics_under_other_conditions_are_not_compared() -> None:
    verdict = judge(scores("candidate", BETTER, "h100-300s"), CHAMPION, RULES)
    assert verdict.code == "champion" and "other conditions" in verdict.reason


def test_where_conditions_changed_in_the_middle_the_candidates_newest_are_those_to_compare_under() -> None:
    old, new = scores("champion", [1.2 + k / 1e3 for k in range(8)], "old"), scores("champion", LEVELS, "new")
    candidate = scores("candidate", [9.0, 9.1, 9.2], "old") + scores("candidate", BETTER, "new")
    verdict = judge(candidate, old + new, RULES)
    assert verdict.promote and (verdict.n, verdict.m) == (3, 8)
    assert judge(candidate, old, RULES).code == "champion"


def test_results_on_another_kind_of_device_wait_for_the_labs_reference() -> None:
    verdict = judge(scores("candidate", BETTER, device="l4"), CHAMPION, RULES)
    assert verdict.n == 0 and "Only results on cpu count" in verdict.reason
    gone = judge(scores("candidate", BETTER), CHAMPION, RULES, reference="h100")
    assert gone.n == 0 and gone.m == 0 and not gone.promote


@pytest.mark.parametrize("state", ["crashed", "timed_out", "stopped_early"])
def test_a_failure_costs_what_the_worst_finished_replicate_costs(state: ExperimentState) -> None:
    verdict = judge(scores("candidate", BETTER) + scores("candidate", [None], state=state), CHAMPION, RULES)
    assert verdict.n == 4 and verdict.candidate_mean == pytest.approx((sum(BETTER) + 1.502) / 4)
    assert "1 replicate of it failed and counts" in verdict.reason and not verdict.promote
    several = judge(scores("candidate", BETTER) + scores("candidate", [None] * 3, state=state), CHAMPION, RULES)
    assert several.n == 6 and several.gain is not None and several.gain < 0.05


def test_what_was_cancelled_in_the_queue_counts_for_nothing() -> None:
    waiting = scores("candidate", [None] * 9, state="cancelled", started=False)
    assert judge(scores("candidate", BETTER) + waiting, CHAMPION, RULES).promote


@pytest.mark.parametrize(
    "facts", [{"state": "cancelled"}, {"state": "crashed", "fault": "machine"}, {"state": "crashed", "fault": "scorer"}]
)
def test_what_ended_without_showing_its_worth_is_trained_again_with_its_seed_before_a_yes(facts: dict[str, Any]) -> None:
    attempts = scores("candidate", BETTER) + scores("candidate", [None], seed=77, **facts)
    verdict = judge(attempts, CHAMPION, RULES)
    assert verdict.code == "continue" and not verdict.promote and "77" in verdict.next
    repeated = judge(attempts + scores("candidate", [1.401], seed=77), CHAMPION, RULES)
    assert repeated.promote and repeated.n == 4
    assert owed_seeds(attempts) == [77] and owed_seeds(attempts + scores("candidate", [None], seed=77)) == []


@pytest.mark.parametrize(("facts", "forgiven"), [({"state": "cancelled"}, 1), ({"state": "crashed", "fault": "machine"}, 2)])
def test_a_seed_is_not_drawn_again_until_it_turns_out_well(facts: dict[str, Any], forgiven: int) -> None:
    attempts = (
        scores("candidate", BETTER) + scores("candidate", [None] * (forgiven + 2), seed=77, **facts) + scores("candidate", [1.39], seed=77)
    )
    verdict = judge(attempts, CHAMPION, RULES)
    assert verdict.n == 6 and "2 replicates of it failed" in verdict.reason
    assert not verdict.promote


def test_somebody_elses_cancels_are_never_a_failure() -> None:
    attempts = scores("candidate", BETTER) + scores("candidate", [None] * 5, state="cancelled", author="ada", cancelled_by="[owner]")
    verdict = judge(attempts, CHAMPION, RULES)
    assert verdict.n == 3 and "failed" not in verdict.reason


def test_a_failure_in_scoring_bars_a_commit_unless_the_scorer_was_at_fault() -> None:
    for fault, code in (("code", "barred"), ("scorer", "continue"), ("machine", "continue")):
        attempts = scores("candidate", BETTER) + scores("candidate", [None], state="crashed", fault=fault, ended_in="scoring")
        assert judge(attempts, CHAMPION, RULES).code == code


def test_nothing_is_final_while_a_replicate_of_the_candidate_is_being_trained() -> None:
    verdict = judge(scores("candidate", BETTER), CHAMPION, RULES, running=2)
    assert verdict.code == "continue" and not verdict.final and "2 replicates of it are being trained" in verdict.reason


def test_only_the_first_replicates_in_order_of_their_starts_count() -> None:
    first, late = scores("candidate", [1.5 + k / 1e4 for k in range(16)]), scores("candidate", [1.0 + k / 1e4 for k in range(16)])
    shuffled = first + late
    random.Random(1).shuffle(shuffled)
    verdict = judge(shuffled, CHAMPION, RULES)
    assert verdict.n == 16 and verdict.code == "futile" and verdict.final
    shorter = judge(first[:4] + late, CHAMPION, PromotionSection(max_replicates=4))
    assert shorter.n == 4 and shorter.final


def test_a_champion_that_never_finishes_is_replaced_by_what_does() -> None:
    dead = scores("champion", [None] * 3)
    verdict = judge(scores("candidate", BETTER), dead, RULES)
    assert verdict.promote and "first that can be measured" in verdict.reason
    assert not judge(scores("candidate", BETTER[:2]), dead, RULES).promote
    assert not judge(scores("candidate", BETTER), dead[:2], RULES).promote
    assert not judge(scores("candidate", BETTER) + scores("candidate", [None] * 3), dead, RULES).promote
    assert not judge(scores("candidate", BETTER), dead + scores("champion", [1.3]), RULES).promote


def test_a_champion_that_ignores_its_seed_is_replaced_by_what_beats_its_one_measurement() -> None:
    fixed = scores("champion", [1.5] * 3, weights="one")
    verdict = judge(scores("candidate", BETTER), fixed, RULES)
    assert verdict.promote and "first that can be measured" in verdict.reason and "whatever its seed" in verdict.reason
    worse = judge(scores("candidate", [1.6, 1.61, 1.59]), fixed, RULES)
    assert worse.final and worse.code == "futile"
    unconfirmed = judge(scores("candidate", BETTER, hidden=[1.6] * 3), fixed, RULES)
    assert not unconfirmed.promote
    assert not judge(scores("candidate", BETTER[:2]), fixed, RULES).promote
    assert not judge(scores("candidate", BETTER), fixed[:2], RULES).promote
    varied = judge(scores("candidate", [1.49, 1.51, 1.48]), fixed + scores("champion", LEVELS), RULES)
    assert not varied.promote and "whatever its seed" not in varied.reason


def test_a_gain_on_validation_that_the_hidden_split_does_not_confirm_is_refused_without_a_number_of_it() -> None:
    champion = scores("champion", LEVELS, hidden=[value + 0.2 for value in LEVELS])
    for hidden in ([1.700, 1.703, 1.698], [1.751, 1.752, 1.753], [1.66, 1.662, 1.659]):  # as good, worse, less than half
        verdict = judge(scores("candidate", BETTER, hidden=hidden), champion, RULES)
        assert not verdict.promote and verdict.code == "not_confirmed" and verdict.final
        assert not any(f"1.{digits}" in verdict.model_dump_json() for digits in (66, 69, 70, 75))
    assert judge(scores("candidate", BETTER, hidden=[1.64, 1.642, 1.638]), champion, RULES).promote


def test_what_was_never_scored_on_the_hidden_split_is_trained_again() -> None:
    before = scores("candidate", BETTER, hidden=[None] * 3)
    verdict = judge(before, CHAMPION, RULES)
    assert verdict.n == 0 and "hidden split" in verdict.reason
    assert judge(before + scores("candidate", BETTER), CHAMPION, RULES).promote


def test_results_without_a_sandbox_count_only_where_the_lab_says_so() -> None:
    candidate, champion = (scores(name, values, confined=False) for name, values in (("candidate", BETTER), ("champion", LEVELS)))
    verdict = judge(candidate, champion, RULES)
    assert verdict.code == "unsandboxed" and not verdict.promote and "[promotion] unsandboxed" in verdict.reason
    assert judge(candidate, champion, PromotionSection(unsandboxed="allow")).promote


def reported(commit: str, values: Sequence[float]) -> list[Score]:
    return [score.model_copy(update={"val_bpb": None, "reported_bpb": score.val_bpb}) for score in scores(commit, values, "reported")]


def test_what_code_reports_of_itself_counts_only_where_the_lab_says_so_and_is_called_that() -> None:
    candidate, champion = reported("candidate", BETTER), reported("champion", LEVELS)
    verdict = judge(candidate, champion, RULES)
    assert verdict.code == "reported" and not verdict.promote and "[promotion] reported" in verdict.reason
    allowed = judge(candidate, champion, PromotionSection(reported="allow"))
    assert allowed.promote and allowed.metric == "reported" and "nobody verified" in allowed.reason


def test_replicates_with_equal_weights_or_equal_scores_on_both_splits_count_once() -> None:
    champion = scores("champion", LEVELS)
    verdict = judge(scores("candidate", [1.4, 1.41, 1.42], weights="abc"), champion, RULES)
    assert verdict.n == 1 and not verdict.promote
    twice = judge(
        scores("candidate", [1.4, 1.4, 1.4, 1.39], hidden=[1.6, 1.6, 1.61, 1.6]), scores("champion", LEVELS, hidden=LEVELS), RULES
    )
    assert twice.n == 3
    equal = scores("candidate", [1.4, 1.4, 1.39])
    hashed = [run.model_copy(update={"weights": f"w{n}", "answers": f"a{n}"}) for n, run in enumerate(equal)]
    assert judge(hashed, champion, RULES).n == 2, "val_bpb has too many digits for two models to share both scores"
    errors = RULES.comparing(MetricSection(name="error rate"))
    assert judge(hashed, champion, errors).n == 3, "a scorer of the owner's own can give coarse numbers: ties are data"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([0.41, 0.41, 0.42, 0.41, 0.42], [0.52, 0.51, 0.51, 0.52, 0.51, 0.51, 0.52, 0.51]),
        ([0.4, 0.4, 0.4], [0.5, 0.5, 0.51, 0.5, 0.5, 0.51, 0.5, 0.5]),
        ([0.015625] * 3, [0.03125] * 8),  # an error rate over 64 cases: coarse in every digit
    ],
)
def test_equal_numbers_of_a_reported_metric_are_ties_and_each_counts(ours: list[float], theirs: list[float]) -> None:
    verdict = judge(reported("candidate", ours), reported("champion", theirs), PromotionSection(reported="allow"))
    assert verdict.promote and (verdict.n, verdict.m) == (len(ours), len(theirs))
    assert ("may ignore its seed" in verdict.reason) == (len(set(ours)) == 1)


def test_identical_candidates_are_rarely_promoted_however_often_somebody_asks() -> None:
    rng = random.Random(11)
    promoted = 0
    for _ in range(200):
        champion = scores("champion", [rng.gauss(1.5, 0.004) for _ in range(16)])
        candidate = scores("candidate", [rng.gauss(1.5, 0.004) for _ in range(16)])
        promoted += any(judge(candidate[:n], champion, RULES).promote for n in range(1, 17))
    assert promoted <= 4


def paced(shares: Sequence[float | None], seeds: Sequence[int] | None = None) -> list[Score]:
    runs = scores("candidate", [1.5 + k / 1e4 for k in range(len(shares))])
    return [
        run.model_copy(update={"cpu_share": share, "seed": seed})
        for run, share, seed in zip(runs, shares, seeds or range(len(shares)), strict=True)
    ]


def test_a_replicate_on_a_thrashed_machine_is_set_aside_once_it_was_trained_again() -> None:
    runs = paced([0.97, 0.98, 0.96, 0.97, 0.60])
    assert set_aside(runs) == [runs[4]]
    assert without_repeated(runs, runs) == (runs, [4])
    repeated = paced([0.97, 0.98, 0.96, 0.97, 0.60, 0.97], seeds=[0, 1, 2, 3, 4, 4])
    assert without_repeated(repeated, repeated) == ([*repeated[:4], repeated[5]], [])
    assert without_repeated(runs, repeated) == (runs, []), "a repeat that gave the same model counts once with it, and pays"


def test_few_can_be_set_aside_so_that_slow_runs_cannot_be_left_out() -> None:
    assert set_aside(paced([0.97, 0.98, 0.5, 0.96])) == [], "too few to tell"
    assert len(set_aside(paced([0.97, 0.98, 0.96, 0.97, 0.975, 0.4, 0.5]))) == 1
    assert set_aside(paced([0.97, 0.93, 0.99, 0.95, 0.91, 0.98])) == [], "everyday differences"
    assert set_aside(paced([None] * 8)) == []
    again = paced([0.97, 0.98, 0.96, 0.97, 0.60, 0.55], seeds=[0, 1, 2, 3, 4, 4])
    kept, owed = without_repeated(again, again)
    assert again[5] in kept and owed == [], "what the repeat shows counts, whatever it is"
