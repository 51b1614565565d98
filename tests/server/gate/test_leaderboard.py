"""The leaderboard takes off the luck of being among the best of many."""

import numpy as np
import pytest

from autoresearch_mcp.server.gate.leaderboard import known_noise, leaders, shrink
from autoresearch_mcp.server.gate.noise import listed, sums_of_squares
from autoresearch_mcp.server.gate.rule import Rules
from autoresearch_mcp.server.gate.spread import mean
from autoresearch_mcp.server.ledger.standings import Standing
from autoresearch_mcp.server.models import Verdict
from tests.server.measured import MeasuredLab


def standing(commit: str, values: list[float]) -> Standing:
    return Standing(commit, True, len(values), mean(values), sums_of_squares(values)[1])


def test_what_the_best_are_said_to_gain_is_what_they_gain() -> None:
    rng = np.random.default_rng(2)
    claimed, raw, true, sure, right = [list[float]() for _ in range(5)]
    for _ in range(60):
        gains = np.where(rng.random(150) < 0.85, 0.0, rng.exponential(1.5, 150)) * np.where(rng.random(150) < 0.5, -1, 1)
        counts = rng.choice([1, 1, 1, 3, 8], 150)
        measured = gains + rng.standard_normal(150) / np.sqrt(counts) + rng.standard_normal() / 4
        shrunk = shrink(list(measured), list(counts), 16, 1.0)
        for place in np.argsort(measured)[-5:]:
            raw.append(measured[place] - gains[place])
        for place in np.argsort([each.gain for each in shrunk])[-5:]:
            claimed.append(shrunk[place].gain)
            true.append(gains[place])
        for each, gain in zip(shrunk, gains):
            if each.better > 0.9:
                sure.append(each.better)
                right.append(gain > 0)
    assert np.mean(raw) > 0.5, "the raw means of the best are luck to that extent"
    assert np.mean(claimed) == pytest.approx(np.mean(true), abs=0.15)
    assert np.mean(right) > np.mean(sure) - 0.12


def test_an_interval_holds_the_gain_and_shrinks_with_replicates() -> None:
    once, often = (shrink([3.0, *[0.0] * 30], [n, *[1] * 30], 16, 1.0)[0] for n in (1, 16))
    for each in (once, often):
        assert each.low < each.gain < each.high and 0 <= each.better <= 1
    assert often.high - often.low < once.high - once.low and often.gain > once.gain and often.better > once.better
    assert shrink([], [], 16, 1.0) == []


@pytest.mark.parametrize("gain", [15.0, 30.0, 57.0, 1e3, 1e9])
def test_a_gain_beyond_all_that_was_seen_is_not_taken_for_luck(gain: float) -> None:
    best, worst, *crowd = shrink([gain, -gain, *[0.0] * 10], [1] * 12, 8, 1.0)
    assert best.better > 0.99 and best.gain == pytest.approx(gain, rel=0.1) and best.low <= best.gain <= best.high
    assert worst.better < 0.01 and worst.gain < -0.9 * gain and all(abs(each.gain) < 0.5 for each in crowd)


def test_the_unit_of_the_metric_changes_nothing() -> None:
    plain, small = shrink([1.0, -0.5, 2.5], [1, 3, 5], 8, 1.0), shrink([0.01, -0.005, 0.025], [1, 3, 5], 8, 0.01)
    for one, other in zip(plain, small):
        assert other.gain * 100 == pytest.approx(one.gain) and other.better == pytest.approx(one.better)


def test_one_lucky_run_does_not_lead_over_a_gain_that_was_repeated() -> None:
    rng = np.random.default_rng(5)
    crowd = [standing(f"null {k}", [float(x)]) for k, x in enumerate(rng.normal(1.5, 0.01, 60))]
    lucky, steady = standing("lucky", [1.472]), standing("steady", [1.474 + k / 1000 for k in range(-3, 4)])
    champion = [float(x) for x in rng.normal(1.5, 0.01, 16)]
    verdicts = {"steady": Verdict(promote=False, code="continue", reason=""), "null 1": Verdict(promote=False, code="futile", reason="")}
    noise = known_noise(champion, listed([each.squares for each in [*crowd, lucky, steady]]))
    everyone = [*crowd, lucky, steady, standing("champion", champion)]
    order, likely = leaders(everyone, "champion", champion, verdicts, 100, Rules(), noise)
    assert [each.shrunk for each in order if each.shrunk] == [*likely.values()] and len(likely) == 62
    names = [each.standing.commit for each in order]
    assert names[0] == "steady" and order[0].mark == "open" and lucky.mean < steady.mean
    marks = {each.standing.commit: each.mark for each in order}
    assert marks["champion"] == "champion" and marks["null 1"] == "futile"
    first, second = order[0].shrunk, order[names.index("lucky")].shrunk
    assert first is not None and second is not None and first.gain < 0.026 and second.better < first.better
    dear, _ = leaders(everyone, "champion", champion, verdicts, 100, Rules(), noise, {"steady": 0.05})
    assert dear[-1].standing.commit == "steady" and dear[-1].shrunk is not None and dear[-1].shrunk.gain < 0, "as the gate charges it"


def test_without_known_noise_the_mean_ranks() -> None:
    assert known_noise([1.5], listed([])) is None
    order, likely = leaders([standing("a", [1.5]), standing("b", [1.4]), standing("c", [1.6])], "a", [1.5], {}, 2, Rules(), None)
    assert not likely
    assert [(each.standing.commit, each.shrunk) for each in order] == [("b", None), ("a", None)]


def test_the_status_shows_likely_gains_beside_the_raw_means(measured: MeasuredLab) -> None:
    champion, better, worse = (
        measured.lab.champion(),
        measured.propose("DEPTH = 2", "DEPTH = 3"),
        measured.propose("DEPTH = 2", "DEPTH = 4"),
    )
    measured.measure(champion, [1.60, 1.61, 1.59, 1.605, 1.595, 1.602, 1.598, 1.60001])
    measured.measure(better, [1.55, 1.56])
    measured.measure(worse, [1.63 + k / 1000 for k in range(16)])
    measured.lab.promote_commit(worse, "ada")
    first, second, third = measured.lab.status().leaderboard
    assert (first.commit, first.mark, first.mean) == (better, "open", pytest.approx(1.555))
    assert first.gain is not None and 0.02 < first.gain < 0.046 and first.p_better is not None and first.p_better > 0.9
    assert (second.commit, second.mark, second.gain) == (champion, "champion", None)
    assert (third.commit, third.mark) == (worse, "decided") and third.gain is not None and third.gain < 0
