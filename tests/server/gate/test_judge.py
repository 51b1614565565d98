"""The gate promotes what is better beyond noise, and says of the rest why not and what to do."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from scipy import stats

from autoresearch_mcp.server.gate.judge import judge, replicates_needed, student_t_cdf, welch_test
from autoresearch_mcp.server.gate.spread import pooled_sd, sd
from autoresearch_mcp.server.models import ExperimentState, Score
from autoresearch_mcp.server.settings import PromotionSection


def scores(
    commit: str,
    values: Sequence[float | None],
    conditions: str = "cpu-60s",
    state: ExperimentState = "finished",
    started: bool = True,
    hidden: Sequence[float | None] | None = None,
    **evidence: Any,
) -> list[Score]:
    return [
        Score(
            experiment=f"{commit}-{conditions}-{state}-{i}",
            commit=commit,
            conditions=conditions,
            device="cpu",
            state=state,
            val_bpb=value,
            started=started,
            finished_at=float(i),
            test_bpb=test,
            **evidence,
        )
        for i, (value, test) in enumerate(zip(values, values if hidden is None else hidden, strict=True))
    ]


RULES = PromotionSection()
CHAMPION = scores("champion", [1.500, 1.502, 1.498])
BETTER = [1.400, 1.403, 1.398]


@pytest.mark.parametrize("degrees", [1, 1.7, 2, 3, 4.4, 10, 33.3, 250, 1e5])
def test_student_t_agrees_with_scipy(degrees: float) -> None:
    for t in [-300, -40, -8, -3.3, -2, -1, -0.3, -1e-9, 0, 1e-5, 0.5, 1, 2.2, 7, 60]:
        assert student_t_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-10, rel=1e-8)


def test_welch_agrees_with_scipy() -> None:
    rng = random.Random(7)
    for _ in range(200):
        a = [rng.gauss(1.5, rng.uniform(0.001, 0.1)) for _ in range(rng.randint(2, 12))]
        b = [rng.gauss(1.49, 0.02) for _ in range(rng.randint(2, 12))]
        expected = stats.ttest_ind(a, b, equal_var=False, alternative="less").pvalue
        assert welch_test(a, b) == pytest.approx(expected, abs=1e-10)


def test_samples_without_any_spread_have_no_noise_to_hide_in() -> None:
    assert welch_test([1.4, 1.4], [1.5, 1.5]) == 0
    assert welch_test([1.5, 1.5], [1.5, 1.5]) == 1
    assert welch_test([1.6, 1.6], [1.5, 1.5]) == 1
    assert 0 < welch_test([1.4, 1.4, 1.4], [1.5, 1.5, 1.501]) < 1e-3


def test_one_value_has_no_test_and_no_spread() -> None:
    with pytest.raises(ValueError, match="two values"):
        welch_test([1.4], [1.5, 1.6])
    assert sd([1.4]) is None


def test_pooled_noise_weighs_groups_by_their_degrees_of_freedom() -> None:
    groups = [[1.0, 1.2], [2.0, 2.1, 2.3, 2.2], [5.0]]
    expected = math.sqrt((stats.tvar(groups[0]) + 3 * stats.tvar(groups[1])) / 4)
    assert pooled_sd(groups) == pytest.approx(expected)
    assert pooled_sd([[1.0], []]) is None


def test_a_clearly_better_candidate_is_promoted_with_its_numbers() -> None:
    verdict = judge(scores("candidate", BETTER), CHAMPION, RULES)
    assert verdict.promote and verdict.code == "better"
    assert (verdict.candidate_n, verdict.champion_n) == (3, 3)
    assert verdict.difference == pytest.approx(-0.09967, abs=1e-4)
    assert verdict.p_value is not None and verdict.p_value < 0.001
    assert "1.4003" in verdict.reason and "1.5000" in verdict.reason


def test_a_difference_within_noise_names_p_and_how_many_replicates_could_show_it() -> None:
    verdict = judge(scores("candidate", [1.499, 1.502, 1.496]), CHAMPION, RULES)
    assert not verdict.promote and verdict.code == "not_better"
    assert "within noise (p = 0." in verdict.reason and "replicates of each would show it" in verdict.reason


def test_a_worse_candidate_is_not_better() -> None:
    verdict = judge(scores("candidate", [1.6, 1.6, 1.61]), CHAMPION, RULES)
    assert not verdict.promote and verdict.code == "not_better" and "+0.1" in verdict.reason


def test_the_champion_is_not_promoted_again() -> None:
    assert judge(CHAMPION, CHAMPION, RULES).code == "is_champion"


def test_too_few_replicates_say_how_many_are_missing_on_which_side() -> None:
    verdict = judge(scores("candidate", BETTER[:1]), CHAMPION[:2], RULES)
    assert verdict.code == "too_few_replicates"
    assert "candidate needs 2 more" in verdict.reason and "champion needs 1 more" in verdict.reason
    assert judge([], [], RULES).code == "too_few_replicates"


def test_one_replicate_never_suffices_whatever_the_settings_say() -> None:
    assert judge(scores("candidate", [1.0]), CHAMPION, PromotionSection.model_construct(min_replicates=1)).code == "too_few_replicates"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_run_without_a_verified_metric_is_no_evidence(value: float | None) -> None:
    verdict = judge(scores("candidate", [*BETTER[:2], value]), CHAMPION, RULES)
    assert not verdict.promote


def test_metrics_under_other_conditions_are_not_compared() -> None:
    verdict = judge(scores("candidate", BETTER, "h100-300s"), CHAMPION, RULES)
    assert verdict.code == "too_few_replicates" and "other conditions" in verdict.reason


def test_the_conditions_that_both_sides_have_are_used_even_if_the_champion_has_more_under_older_ones() -> None:
    champion = scores("champion", [1.2] * 6, "old") + scores("champion", [1.500, 1.502, 1.498], "new")
    verdict = judge(scores("candidate", BETTER, "new"), champion, RULES)
    assert verdict.code == "better" and verdict.champion_n == 3


def test_of_two_complete_conditions_the_one_with_more_of_the_champions_replicates_decides() -> None:
    champion = scores("champion", [1.500, 1.502, 1.498, 1.501], "many") + scores("champion", [1.6, 1.601, 1.602], "few")
    candidate = scores("candidate", [1.55, 1.551, 1.552], "many") + scores("candidate", [1.5, 1.501, 1.502], "few")
    assert judge(candidate, champion, RULES).code == "not_better"


@pytest.mark.parametrize("state", ["crashed", "timed_out", "stopped_early", "cancelled"])
def test_bad_runs_cannot_be_left_out(state: ExperimentState) -> None:
    verdict = judge(scores("candidate", BETTER) + scores("candidate", [None, None], state=state), CHAMPION, RULES)
    assert verdict.code == "too_many_failures"
    assert "2 of the candidate's 5 attempts" in verdict.reason and "3 more replicates" in verdict.reason


def test_a_quarter_of_failures_and_what_was_cancelled_in_the_queue_are_forgiven() -> None:
    attempts = scores("candidate", BETTER) + scores("candidate", [None], state="crashed")
    attempts += scores("candidate", [None] * 9, state="cancelled", started=False)
    assert judge(attempts, CHAMPION, RULES).promote


def test_identical_candidates_are_rarely_promoted() -> None:
    rng = random.Random(11)

    def draw(commit: str, n: int) -> list[Score]:
        return scores(commit, [rng.gauss(1.5, 0.004) for _ in range(n)])

    promoted = sum(judge(draw("candidate", 3), draw("champion", rng.choice([3, 5])), RULES).promote for _ in range(1_500))
    assert 0.02 < promoted / 1_500 < 0.06


def test_the_estimated_replicates_give_about_the_power_they_promise() -> None:
    rng = random.Random(5)
    n = replicates_needed(-0.01, 0.01, 0.05)
    assert n == 14
    significant = sum(
        welch_test([rng.gauss(1.49, 0.01) for _ in range(n)], [rng.gauss(1.5, 0.01) for _ in range(n)]) <= 0.05 for _ in range(600)
    )
    assert 0.74 < significant / 600 < 0.9


def test_replicates_are_not_recommended_where_they_cannot_help() -> None:
    assert replicates_needed(0.01, 0.01, 0.05) is None
    assert replicates_needed(-1e-9, 0.01, 0.05) is None
    assert replicates_needed(-0.01, 0.0, 0.05) == 2


def test_a_gain_on_validation_that_the_hidden_split_does_not_confirm_is_refused_without_a_number_of_it() -> None:
    champion = scores("champion", [1.500, 1.502, 1.498], hidden=[1.700, 1.702, 1.698])
    for hidden in ([1.700, 1.703, 1.698], [1.751, 1.752, 1.753], [1.699, 1.701, 1.6985]):  # as good, worse, better within noise
        verdict = judge(scores("candidate", BETTER, hidden=hidden), champion, RULES)
        assert not verdict.promote and verdict.code == "not_confirmed"
        assert not any(f"1.{digits}" in verdict.model_dump_json() for digits in (69, 70, 75))
    assert judge(scores("candidate", BETTER, hidden=[1.65, 1.652, 1.648]), champion, RULES).code == "better"


def test_what_was_never_scored_on_the_hidden_split_is_trained_again() -> None:
    before = scores("candidate", BETTER, hidden=[None] * 3)
    verdict = judge(before, CHAMPION, RULES)
    assert verdict.code == "too_few_replicates" and "hidden split" in verdict.reason and "3 more replicates" in verdict.reason
    assert judge(before + scores("candidate", BETTER, "cpu-60s"), CHAMPION, RULES).promote


def test_results_without_a_sandbox_count_only_where_the_lab_says_so() -> None:
    candidate, champion = (
        scores(name, values, "loose", confined=False) for name, values in (("candidate", BETTER), ("champion", [1.5, 1.502, 1.498]))
    )
    verdict = judge(candidate, champion, RULES)
    assert verdict.code == "unsandboxed" and not verdict.promote and "[promotion] unsandboxed" in verdict.reason
    assert judge(candidate, champion, PromotionSection(unsandboxed="allow")).promote
    assert judge(candidate + scores("candidate", BETTER), champion + CHAMPION, RULES).champion_n == 3


def reported(commit: str, values: Sequence[float]) -> list[Score]:
    return [score.model_copy(update={"val_bpb": None, "reported_bpb": score.val_bpb}) for score in scores(commit, values, "reported")]


def test_what_code_reports_of_itself_counts_only_where_the_lab_says_so_and_is_called_that() -> None:
    candidate, champion = reported("candidate", BETTER), reported("champion", [1.500, 1.502, 1.498])
    verdict = judge(candidate, champion, RULES)
    assert verdict.code == "reported" and not verdict.promote and "[promotion] reported" in verdict.reason
    allowed = judge(candidate, champion, PromotionSection(reported="allow"))
    assert allowed.promote and allowed.metric == "reported" and "nobody verified" in allowed.reason


def test_a_reported_metric_is_never_compared_with_a_verified_one() -> None:
    lenient = PromotionSection(reported="allow")
    assert judge(reported("candidate", BETTER), CHAMPION, lenient).code == "too_few_replicates"
    assert judge(reported("candidate", BETTER) + scores("candidate", [1.6, 1.602, 1.598]), CHAMPION, lenient).code == "not_better"


def test_replicates_that_are_equal_bit_for_bit_count_once() -> None:
    same = scores("candidate", [1.4, 1.4, 1.4], weights="abc")
    verdict = judge(same, CHAMPION, RULES)
    assert verdict.code == "too_few_replicates" and verdict.candidate_n == 1
    assert "equal bit for bit" in verdict.reason and "seed" in verdict.reason


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([0.41, 0.41, 0.42, 0.41, 0.42], [0.52, 0.51, 0.51]),
        ([0.4, 0.4, 0.4], [0.5, 0.5, 0.6]),
        ([0.015625] * 3, [0.03125] * 3),  # an error rate over 64 cases: coarse in every digit
    ],
)
def test_equal_numbers_of_a_reported_metric_are_ties_and_each_counts(ours: list[float], theirs: list[float]) -> None:
    verdict = judge(reported("candidate", ours), reported("champion", theirs), PromotionSection(reported="allow"))
    assert verdict.promote and (verdict.candidate_n, verdict.champion_n) == (len(ours), len(theirs))
    assert "bit for bit" not in verdict.reason
    assert ("may ignore its seed" in verdict.reason) == (len(set(ours)) == 1)
