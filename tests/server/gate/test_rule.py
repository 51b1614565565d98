"""The rule keeps its level at every look, says what is missing, and can't be moved by what should not count."""

import dataclasses
import math
import random

import pytest

from autoresearch_mcp.server.gate.boundary import LEVEL, M_CAP, M_MIN, N_CAP, N_MIN, nominal_p, nominal_ps
from autoresearch_mcp.server.gate.noise import pooled_noise
from autoresearch_mcp.server.gate.rule import Decision, Noise, Rules, Run, decide, window

UNIT = Noise(1.0, 60)
CHAMPION = [Run(float(value)) for value in (1, -1) * 8]
RULES = Rules()


def runs(*values: float) -> list[Run]:
    return [Run(value) for value in values]


def test_a_large_gain_is_promoted_as_soon_as_both_sides_have_the_fewest_replicates() -> None:
    assert decide(runs(-4, -4.1), CHAMPION, UNIT, RULES).verdict == "continue"
    decision = decide(runs(-4, -4.1, -3.9), CHAMPION[:M_MIN], UNIT, RULES)
    assert decision.verdict == "promote" and decision.final
    assert (decision.n, decision.m, decision.gain, decision.gain_sd) == (N_MIN, M_MIN, pytest.approx(4), pytest.approx(4))
    assert decision.se == pytest.approx(math.sqrt(1 / 3 + 1 / 8)) and decision.p is not None and decision.p < 1e-6
    assert decide(runs(-4, -4.1, -3.9), CHAMPION[: M_MIN - 2], UNIT, RULES).verdict == "champion"


def test_the_gain_that_is_needed_is_the_one_that_promotes() -> None:
    needed = decide(runs(-1.0, -1.0, -1.0), CHAMPION, UNIT, RULES).needed_gain
    assert needed is not None
    assert decide(runs(*[-needed - 1e-9] * 3), CHAMPION, UNIT, RULES).verdict == "promote"
    assert decide(runs(*[-needed + 1e-6] * 3), CHAMPION, UNIT, RULES).verdict == "continue"


def test_a_candidate_that_is_not_better_is_dropped_early_and_decided_with_all_its_replicates() -> None:
    early = decide(runs(0.5), CHAMPION, UNIT, RULES)
    assert early.verdict == "futile" and not early.final
    last = decide(runs(*[-0.5] * N_CAP), CHAMPION, UNIT, RULES)
    assert last.verdict == "futile" and last.final
    assert "ask" not in early.next + last.next


def test_without_replicates_of_the_champion_or_any_noise_nothing_is_said_of_a_candidate() -> None:
    assert decide([], [], None, RULES) == Decision("continue", 0, 0, next="Its first replicate decides next.")
    few = decide(runs(-9, -9, -9), CHAMPION[:3], UNIT, RULES)
    assert few.verdict == "champion" and few.p is None and "1 more replicate of the champion" in few.next
    assert decide(runs(9), CHAMPION[:8], Noise(1.0, 2), RULES).verdict == "continue"
    assert decide(runs(*[-9.0] * 16), CHAMPION[:7], UNIT, RULES).verdict == "champion"


def test_only_the_first_replicates_of_a_candidate_count() -> None:
    first = runs(*[0.1] * N_CAP)
    assert decide(first + runs(*[-50.0] * 20), CHAMPION, UNIT, RULES) == decide(first, CHAMPION, UNIT, RULES)


def test_a_candidate_that_varies_more_than_the_noise_needs_more() -> None:
    steady, wild = (decide(runs(*values), CHAMPION, UNIT, RULES) for values in ((-2.4, -2.5, -2.6), (-7.5, 0.0, 0.0)))
    assert steady.verdict == "promote" and wild.verdict == "continue"
    assert steady.gain == wild.gain and steady.needed_gain is not None and wild.needed_gain is not None
    assert wild.needed_gain > 1.5 * steady.needed_gain


def test_half_of_the_gain_must_be_there_on_the_hidden_split() -> None:
    champion = [Run(run.metric, run.metric) for run in CHAMPION]
    for hidden, verdict in ((-2.1, "promote"), (-1.9, "not_confirmed"), (3.0, "not_confirmed")):
        decision = decide([Run(-4.0, hidden)] * 3, champion, UNIT, RULES)
        assert decision.verdict == verdict and decision.final


def test_a_metric_that_is_maximised_is_judged_by_the_same_rule() -> None:
    up = Rules(goal="max")
    rng = random.Random(3)
    for _ in range(300):
        ours = [Run(x := rng.gauss(-1, 1), x - 0.1) for _ in range(rng.randint(1, 17))]
        theirs = [Run(x := rng.gauss(0, 1), x) for _ in range(rng.randint(0, 20))]
        mirrored = decide([Run(-x, -h) for x, h in ours], [Run(-x, -h) for x, h in theirs], UNIT, up)
        assert mirrored == decide(ours, theirs, UNIT, RULES)
    assert (up.worst([1, 3]), RULES.worst([1, 3])) == (1, 3)


def test_the_unit_and_the_zero_of_the_metric_change_nothing() -> None:
    rng = random.Random(4)
    for _ in range(200):
        ours, theirs = ([rng.gauss(centre, 1) for _ in range(n)] for centre, n in ((-1.5, rng.randint(1, 16)), (0, 12)))
        plain = decide(runs(*ours), runs(*theirs), Noise(1.1, 20), RULES)
        other = decide(runs(*(7 + x / 300 for x in ours)), runs(*(7 + y / 300 for y in theirs)), Noise(1.1 / 300, 20), RULES)
        assert other.verdict == plain.verdict and other.p == pytest.approx(plain.p, rel=1e-6)


def test_a_better_replicate_never_turns_a_yes_into_a_no() -> None:
    rng = random.Random(5)
    for _ in range(300):
        ours, theirs = [rng.gauss(-2, 0.3) for _ in range(5)], [rng.gauss(0, 1) for _ in range(16)]
        before = decide(runs(*ours), runs(*theirs), UNIT, RULES)
        better = [x - 0.2 for x in ours]
        if before.verdict == "promote":
            assert decide(runs(*better), runs(*theirs), UNIT, RULES).verdict == "promote"


def test_where_all_numbers_are_equal_there_is_no_gain_and_where_none_varies_any_gain_counts() -> None:
    none = Noise(0.0, 10)
    for value in (0.5, 0.1, 1 / 3, -7.7):
        assert all(decide(runs(*[value] * n), runs(*[value] * 11), none, RULES).verdict == "futile" for n in range(1, 17))
    sure = decide(runs(*[0.4] * 3), runs(*[0.5] * 8), none, RULES)
    assert sure.verdict == "promote" and sure.p == 0 and sure.gain_sd is None


def test_the_window_holds_the_champions_newest_of_before_and_later_ones_only_to_fill_up() -> None:
    champion = [(float(at), Run(float(at))) for at in range(20)]
    assert [run.metric for run in window(champion, until=17.5)] == list(range(2, 18))
    assert [run.metric for run in window(champion, until=3.5)] == list(range(16))
    assert [run.metric for run in window(champion[:6], until=99)] == list(range(6))
    assert len(window(champion, until=-1)) == M_CAP


def test_the_bound_is_looser_where_the_noise_is_hardly_known_and_stricter_for_a_lower_level() -> None:
    assert nominal_p(LEVEL, N_CAP, 3) > nominal_p(LEVEL, N_CAP, 10) > nominal_p(LEVEL, N_CAP, 11) > nominal_p(LEVEL, N_CAP, 10**6)
    assert nominal_p(LEVEL, N_CAP, 40) == pytest.approx(0.001, rel=0.03)
    assert nominal_p(LEVEL, 4, 40) > nominal_p(LEVEL, N_CAP, 40), "fewer looks"


@pytest.mark.parametrize("level", [1e-9, 0.4])
def test_any_level_has_its_own_bound(level: float) -> None:
    p = nominal_p(level, N_CAP, 20)
    assert level / 20 < p < level
    decision = decide(runs(*[-30.0] * 3), CHAMPION, UNIT, Rules(level=level))
    assert decision.verdict == "promote"
    assert decide(runs(*[0.1] * 3), CHAMPION, UNIT, Rules(level=level)).verdict == "futile"


@pytest.mark.slow
def test_the_defaults_table_is_what_is_computed() -> None:
    for nu, p in nominal_ps(LEVEL, N_CAP).items():
        assert nominal_p(LEVEL, N_CAP, nu) == pytest.approx(p, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("nu", [5, 15, 60])
def test_asking_after_every_replicate_keeps_the_level_without_anything_being_dropped(nu: int) -> None:
    import numpy as np
    from scipy import special

    rng, campaigns, each = np.random.default_rng(nu), 4000, 25
    sd = np.sqrt(rng.chisquare(nu, (campaigns, 1)) / nu)
    x, y = rng.standard_normal((campaigns, each, N_CAP)), rng.standard_normal((campaigns, M_CAP))
    ever = np.zeros((campaigns, each), bool)
    for n, m in [(n, M_MIN) for n in range(N_MIN, N_CAP + 1)] + [(N_CAP, m) for m in range(M_MIN + 1, M_CAP + 1)]:
        gain = y[:, :m].mean(1, keepdims=True) - x[:, :, :n].mean(2)
        ever |= special.stdtr(nu, -gain / (sd * math.sqrt(1 / n + 1 / m))) <= nominal_p(LEVEL, N_CAP, nu)
    assert 0.7 * LEVEL < ever.mean() < 1.25 * LEVEL


def test_the_noise_is_pooled_by_degrees_of_freedom() -> None:
    noise = pooled_noise([1.0, 2.0, 3.0, 2.0], [[5.0, 6.0], [7.0], []])
    assert noise == Noise(pytest.approx(math.sqrt((2 + 0.5) / 4)), 4)
    assert pooled_noise([], [[1.0, 2.0], [1.0, 3.0]]) == Noise(pytest.approx(math.sqrt((0.5 + 2) / 2)), 2)
    assert pooled_noise([1.0], [[2.0]]) is None


def test_an_unstable_commit_does_not_hide_every_gain() -> None:
    champion = [run.metric for run in CHAMPION]
    assert pooled_noise(champion, [[0.0, 900.0], [0.0, 1.0]]) == pooled_noise(champion, [[0.0, 1.0]])


def test_commits_that_hardly_vary_do_not_make_luck_look_like_a_gain() -> None:
    champion = [run.metric for run in CHAMPION]
    steady = [[8.0, 8.0001] * 8] * 40
    assert pooled_noise(champion, steady) == pooled_noise(champion, [])


def test_a_decision_is_a_value() -> None:
    decision = decide(runs(-1), CHAMPION, UNIT, RULES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.n = 4  # type: ignore[misc]
