"""Where a sweep looks next: asks Optuna, or draws by itself where no model of the results is needed.

Nothing is kept between two questions. A study is made of the trials in the ledger each time, so no crash loses what was learned.
"""

import itertools
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.server.models import Sweep, SweepParameter
from autoresearch_mcp.server.proposals.literals import Value, literal

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler

MEASURED = ("tpe", "cmaes")  # samplers that learn from results: they take Optuna
FEWEST_WEIGHED = 20  # finished trials, from which on importances are told
_FEWEST_BEST = 8  # trials that importances take for good
_STARTUP = 10  # trials that are drawn at random before a model guides them, at most
_DIGITS = 6  # of a value that is no whole number


class Unsampled(Exception):
    """A sampler couldn't choose, and says why. It won't mend itself: what it is told stays the same."""


@dataclass(frozen=True)
class Known:
    """A point that was asked before.

    Attributes:
        values: of each constant, as code.
        state: `finished`, `running`, `stopped` (its early results were hopeless) or `failed`.
        loss: lower is better; None where it did not finish.
        attrs: what the sampler noted when it was asked.
    """

    values: Mapping[str, str]
    state: str
    loss: float | None = None
    attrs: Mapping[str, Any] | None = None


@contextmanager
def _choosing() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Optuna's, or that it is gone: one sweep ends, and keeps no other and no round waiting
        raise Unsampled(f"{type(error).__name__}: {error}"[:300]) from error


@_choosing()
def ask(sweep: Sweep, number: int, known: Sequence[Known]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the values of the next trial, as code, and what the sampler wants to find again.

    Args:
        sweep: whose constants are varied.
        number: of the trial.
        known: everything that was asked before, and results of the same code from elsewhere.

    Raises:
        Unsampled: the sampler failed.
    """
    if sweep.sampler == "grid":
        return grid_point(sweep, number), {}
    if sweep.sampler == "random":
        draw = random.Random(f"{sweep.seed}/{number}")  # noqa: S311 - a search, no secret
        return {name: _drawn(each, draw) for name, each in sweep.parameters.items()}, {}
    study = _study(sweep, known, number)
    trial = study.ask()
    values = {name: _suggested(trial, name, each) for name, each in sweep.parameters.items()}
    return values, study.trials[trial.number].system_attrs


@_choosing()
def weigh(sweep: Sweep, known: Sequence[Known]) -> dict[str, float]:
    """Return which share of the metric's variation each constant explains, the largest first, by PED-ANOVA.

    It compares where the best trials lie with where all do: the best tenth, but never fewer than 8, because 2 of 20 mislead.

    Raises:
        Unsampled: the importances can't be reckoned.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    best = max(0.1, _FEWEST_BEST / sum(each.state == "finished" for each in known))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = get_param_importances(_study(sweep, known, 0), evaluator=PedAnovaImportanceEvaluator(target_quantile=best))
    return {name: round(float(share), 3) for name, share in shares.items() if math.isfinite(share)}


def grid_point(sweep: Sweep, number: int) -> dict[str, str]:
    """Return a point of the grid: as many values of each constant as the trials allow, the first constant the slowest."""
    names = list(sweep.parameters)
    ranges = [name for name in names if not sweep.parameters[name].choices]
    fixed = math.prod(len(each.choices) for each in sweep.parameters.values() if each.choices)
    steps = max(2, math.floor((sweep.trials / fixed) ** (1 / len(ranges)) + 1e-9)) if ranges else 0
    axes = [list(dict.fromkeys(_steps(sweep.parameters[name], steps))) for name in names]
    size = math.prod(map(len, axes))
    point = next(itertools.islice(itertools.product(*axes), number % size, None))
    return dict(zip(names, point, strict=True))


def as_code(value: float, parameter: SweepParameter) -> str:
    """Return a number of a range as it is written in the code."""
    assert parameter.low is not None and parameter.high is not None
    if parameter.whole:
        return str(round(value))
    return repr(min(max(float(f"{value:.{_DIGITS}g}"), parameter.low), parameter.high))


def _steps(parameter: SweepParameter, steps: int) -> list[str]:
    if parameter.choices:
        return parameter.choices
    return [_at(parameter, step / (steps - 1)) for step in range(steps)]


def _drawn(parameter: SweepParameter, draw: random.Random) -> str:
    return draw.choice(parameter.choices) if parameter.choices else _at(parameter, draw.random())


def _at(parameter: SweepParameter, share: float) -> str:
    """Return the value at a share of the way through a range."""
    low, high = parameter.low, parameter.high
    assert low is not None and high is not None
    value = low * (high / low) ** share if parameter.log else low + (high - low) * share
    return as_code(value, parameter)


def _study(sweep: Sweep, known: Sequence[Known], number: int) -> "Study":
    """Return a study in memory that knows what is known, in the order in which it was asked."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spaces = dict[str, BaseDistribution]()
    for name, each in sweep.parameters.items():
        if each.choices:
            spaces[name] = CategoricalDistribution(each.choices)
        elif each.whole:
            assert each.low is not None and each.high is not None
            spaces[name] = IntDistribution(int(each.low), int(each.high), log=each.log)
        else:
            assert each.low is not None and each.high is not None
            spaces[name] = FloatDistribution(each.low, each.high, log=each.log)
    states = {"finished": TrialState.COMPLETE, "running": TrialState.RUNNING, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of Optuna call themselves experimental
        study = optuna.create_study(sampler=_sampler(sweep, number), direction="minimize")
        for each_known in known:
            study.add_trial(
                create_trial(
                    state=states[each_known.state],
                    params={name: _number(each_known.values[name], parameter) for name, parameter in sweep.parameters.items()},
                    distributions=spaces,
                    value=each_known.loss if each_known.state == "finished" else None,
                    system_attrs=dict(each_known.attrs or {}),
                )
            )
    return study


def _sampler(sweep: Sweep, number: int) -> "BaseSampler":
    from optuna.samplers import CmaEsSampler, TPESampler

    seed = (sweep.seed + number) % 2**32
    if sweep.sampler == "cmaes":
        inside = all(_is_inside(each.now, each) for each in sweep.parameters.values() if not each.choices)
        start = {name: _number(each.now, each) for name, each in sweep.parameters.items() if not each.choices} if inside else None
        return CmaEsSampler(x0=start, seed=seed, warn_independent_sampling=False)
    return TPESampler(constant_liar=True, seed=seed, n_startup_trials=max(3, min(_STARTUP, sweep.trials // 4)))


def _suggested(trial: Any, name: str, parameter: SweepParameter) -> str:
    if parameter.choices:
        return str(trial.suggest_categorical(name, parameter.choices))
    if parameter.whole:
        return str(trial.suggest_int(name, int(parameter.low or 0), int(parameter.high or 0), log=parameter.log))
    return as_code(trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log), parameter)


def _number(text: str, parameter: SweepParameter) -> Value:
    return text if parameter.choices else literal(text)


def covers(values: Mapping[str, str], parameters: Mapping[str, SweepParameter]) -> bool:
    """Return whether a sweep could have asked for these values."""
    return set(values) == set(parameters) and all(_is_inside(values[name], each) for name, each in parameters.items())


def _is_inside(text: str, parameter: SweepParameter) -> bool:
    if parameter.choices:
        return text in parameter.choices
    try:
        value = literal(text)
    except ValueError:
        return False
    assert parameter.low is not None and parameter.high is not None
    if isinstance(value, str | bool) or (parameter.whole and not isinstance(value, int)):
        return False
    return parameter.low <= value <= parameter.high
