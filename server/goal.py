"""Says which of two metrics is better. Nothing else in the server knows whether a goal points up or down."""

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

T = TypeVar("T")
Goal = Literal["min", "max"]

WORDS: dict[Goal, str] = {"min": "lower is better", "max": "higher is better"}


def gain(candidate: float, champion: float, goal: Goal) -> float:
    """Return by how much the candidate's metric is better; negative where it is worse."""
    return champion - candidate if goal == "min" else candidate - champion


def worsened(metric: float, by: float, goal: Goal) -> float:
    """Return a metric that is worse by an amount; better, where that is negative."""
    return metric + by if goal == "min" else metric - by


def best(items: Iterable[T], goal: Goal, key: Callable[[T], float]) -> T:
    """Return the item with the best metric, of at least one."""
    return min(items, key=key) if goal == "min" else max(items, key=key)


def worst(values: Iterable[float], goal: Goal) -> float:
    """Return the worst of at least one metric."""
    return max(values) if goal == "min" else min(values)
