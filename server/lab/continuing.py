"""Says what a fresh session must know of a lab, and whether a campaign that goes on by itself is over."""

from autoresearch_mcp.server.answers import StatusAnswer
from autoresearch_mcp.server.goal import Goal


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


def end(status: StatusAnswer, goal: float | None, better: Goal, paused: bool) -> str:
    """Return why a campaign is over; empty where it isn't.

    Args:
        status: of the lab.
        goal: what the champion's metric is to reach; None for nothing.
        better: whether a lower or a higher metric is better.
        paused: whether the lab's owner paused it.
    """
    mean = status.champion.mean
    if goal is not None and mean is not None and (mean <= goal if better == "min" else mean >= goal):
        return f"the champion has reached {goal:g}"
    each = (status.training.typical_s or status.training.reserves_s) if status.training else 0.0
    if status.budget.left_s < each:
        return "the budget covers no more trainings"
    return "the lab's owner paused the lab" if paused else ""
