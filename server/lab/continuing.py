"""Says what a fresh session must know of a lab, and whether a campaign that goes on by itself is over."""

from autoresearch_mcp.server.answers import Budget, StatusAnswer
from autoresearch_mcp.server.settings import Settings

USED_UP = "the budget covers no more trainings"


def wake_up(status: StatusAnswer) -> list[str]:
    """Return what the lab is about now, in lines."""
    champion, counts = status.champion, ", ".join(f"{n} {state}" for state, n in status.counts.items() if n) or "no experiments yet"
    mean = f"{champion.mean:.5g} (n {champion.n})" if champion.mean is not None else "not measured yet"
    return [
        f"This is the autoresearch lab {status.lab}. Metric: {status.metric}. Champion {champion.commit[:12]}: {mean}. {counts}.",
        f"Budget left: {status.budget.left_s / 3600:.2f} device hours.",
        *status.warnings,
        *(f"Next: {step}" for step in status.next),
    ]


def end(status: StatusAnswer, settings: Settings, goal: float | None, paused: bool) -> str:
    """Return why a campaign is over; empty where it isn't.

    Args:
        status: of the lab.
        settings: the lab's.
        goal: what the champion's metric is to reach; None for nothing.
        paused: whether the lab's owner paused it.
    """
    mean = status.champion.mean
    if goal is not None and mean is not None and (mean <= goal if settings.metric.better == "min" else mean >= goal):
        return f"the champion has reached {goal:g}"
    if _used_up(status.budget, settings):
        return USED_UP
    return "the lab's owner paused the lab" if paused else ""


def _used_up(budget: Budget, settings: Settings) -> bool:
    """Return whether no training can start any more. One starts where the most that it can use is left, and what is open may return some."""
    if budget.reserved_s > 0:
        return False
    each = settings.longest_s()
    dear = budget.usd is not None and budget.usd.left < each * min(map(settings.usd_per_s, settings.devices))
    return budget.left_s < each or dear
