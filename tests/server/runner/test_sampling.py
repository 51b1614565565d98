"""Where a sweep looks next: learned from the results so far, without a runner."""

from collections.abc import Callable

import pytest

from autoresearch_mcp.server.models import Sampler, Sweep, SweepParameter
from autoresearch_mcp.server.runner.sampling import Known, ask, weigh


def sweep(sampler: Sampler, trials: int, **parameters: SweepParameter) -> Sweep:
    return Sweep(
        id="s-1", commit="c", author="ada", parameters=parameters, trials=trials, parallel=1, sampler=sampler, seed=5, created_at=0.0
    )


def between(low: float, high: float, now: float) -> SweepParameter:
    return SweepParameter(path="train.py", now=str(now), low=low, high=high)


def tried(study: Sweep, loss: Callable[[float, float], float]) -> list[Known]:
    """Ask for all trials of a sweep in turn, each after the result of the one before."""
    known = list[Known]()
    for number in range(study.trials):
        values, attrs = ask(study, number, known)
        x, y = map(float, values.values())
        known.append(Known(values, "finished", loss(x, y), attrs))
    return known


def bowl(x: float, y: float) -> float:
    return (x - 0.3) ** 2 + (y - 0.7) ** 2


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_sampler_learns_from_results(sampler: Sampler) -> None:
    losses = [each.loss or 0.0 for each in tried(sweep(sampler, 40, X=between(-4, 4, 1.0), Y=between(-4, 4, 1.0)), bowl)]
    first, last = losses[:10], losses[-10:]
    assert min(losses) < min(first) / 2 and sum(last) < sum(first) / 2


def test_what_failed_or_still_runs_is_asked_around_and_harms_nothing() -> None:
    study = sweep("tpe", 20, X=between(-4, 4, 1.0), Y=between(-4, 4, 1.0))
    known = [Known({"X": str(n / 10), "Y": "0.5"}, state) for n, state in enumerate(("failed", "running", "stopped") * 4)]
    values, _ = ask(study, 12, known)
    assert values not in [each.values for each in known] and all(-4 <= float(each) <= 4 for each in values.values())


def test_importances_name_the_constant_that_matters() -> None:
    shares = list[float]()
    for seed in range(0, 200, 20):  # of other points each, as 20 of them can mislead by bad luck
        study = sweep("random", 20, X=between(-4, 4, 1.0), Y=between(-4, 4, 1.0)).model_copy(update={"seed": seed})
        shares.append(weigh(study, tried(study, lambda x, y: 1.5 + x**2 + 0.001 * y))["X"])
    assert sum(share > 0.5 for share in shares) >= 9 and sum(shares) / len(shares) > 0.85
