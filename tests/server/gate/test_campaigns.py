"""Whole campaigns, in the product's order of launches: the error rates that `make bench` prints, on fewer campaigns."""

import pytest

from tests.bench.gate import CHEATS, MEASURED, WORLDS, rates


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no drift", "measured drift", "and slow drift of 30 %"])
def test_few_candidates_without_a_gain_are_promoted_and_most_of_two_sd_are_found(name: str) -> None:
    world, each = WORLDS[name]
    nothing, two_sd = rates(world, 0.0, each, 30), rates(world, 2.0, each, 3)
    assert nothing.promoted <= 0.5 + 2 * nothing.error and nothing.trainings + nothing.champions < 4
    assert two_sd.promoted >= 90 and two_sd.trainings + two_sd.champions < 7


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHEATS))
def test_no_cheat_raises_the_rate_of_false_promotions(name: str) -> None:
    nothing = rates(MEASURED, 0.0, 100, 15, **CHEATS[name])
    assert nothing.promoted <= 0.6 + 2 * nothing.error
