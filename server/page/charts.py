"""The numbers behind the page's charts: few enough for a browser, however long the campaign."""

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from autoresearch_mcp.server.goal import WORDS
from autoresearch_mcp.server.lab.campaigns import Overview
from autoresearch_mcp.server.lab.curve_plot import CommitCurves
from autoresearch_mcp.server.lab.progress import headline
from autoresearch_mcp.server.lab.titles import beginning
from autoresearch_mcp.server.ledger.tallying import THE_LAB
from autoresearch_mcp.server.models import Proposal
from autoresearch_mcp.server.pace import WINDOWS, windows_of

MOST = 2_000  # points of one kind, about
Point = tuple[Any, ...]  # an experiment's number, its value, and where it is compared its commit


def progress_data(overview: Overview, filters: dict[str, str], start: int = 0, end: int = 0) -> dict[str, Any]:
    """Return the campaign as series over the numbers of experiments.

    Args:
        overview: the campaign.
        filters: by `author`, `tag` and `device`; champions are shown whatever the filter.
        start: the first number that is shown; 0 for all.
        end: the last; 0 for all.
    """
    progress = overview.progress
    first, last = max(start, 1), min(end or progress.total, progress.total)
    keeps = _filter(overview, filters)

    def shown(points: Sequence[Any], number: Callable[[Any], int] = itemgetter(0)) -> Sequence[Any]:
        """Return what of these, which are in the order of their numbers, is in the range and passes the filters."""
        inside = points[bisect_left(points, first, key=number) : bisect_right(points, last, key=number)]
        return inside if keeps is None else [point for point in inside if keeps(number(point))]

    def edge(numbers: Sequence[int]) -> list[tuple[int, float | None]]:
        return [(number, None) for number in shown(numbers, int)]

    promoted = overview.all_of(overview.was_champion)
    compared = shown(progress.compared)
    kinds: dict[str, Sequence[Point]] = {
        "tried": [point for point in compared if point[2] not in promoted],
        "promoted": [point for point in compared if point[2] in promoted],
        "not verified": [] if progress.reported else shown(progress.unverified),
        "other conditions": shown(progress.elsewhere),
        "failed": edge(progress.failed),
        "stopped early": edge(progress.stopped),
        "another device": edge(progress.screened),
    }
    points = {kind: thin(of_kind) for kind, of_kind in kinds.items() if of_kind}
    ended = {n: overview.ended[n - 1] for n in sorted({n for of_kind in points.values() for n, *_ in of_kind})}
    title_of = functools.cache(lambda commit, hypothesis: _title(overview.proposal(commit), hypothesis))
    return {
        "title": headline(progress),
        "metric": f"{progress.reported or progress.measured}, {WORDS[progress.goal]}",
        "goal": progress.goal,
        "total": progress.total,
        "range": [first, last],
        "points": {kind: [[n for n, *_ in of_kind], [y for _, y, *_ in of_kind]] for kind, of_kind in points.items()},
        "labels": {n: f"{title_of(e.commit, e.hypothesis)} · {THE_LAB if e.by_lab else e.author}" for n, e in ended.items()}
        if len(ended) <= MOST
        else {},
        "ids": {n: e.id for n, e in ended.items()},
        "champions": [
            {
                "start": c.start,
                "level": c.level,
                "commit": c.commit,
                "comparable": c.comparable,
                "title": _title(overview.proposal(c.commit), c.hypothesis),
                "band": [[at.number, at.mean, at.low, at.high] for at in c.band],
            }
            for c in progress.champions
        ],
    }


def thin(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """Return the points, which all have a value or none has; of a long row only the lowest and the highest of each piece, so that its outline stays."""
    if len(points) <= most:
        return list(points)
    pieces, value = most // 2, itemgetter(1)
    parts = (points[piece * len(points) // pieces : (piece + 1) * len(points) // pieces] for piece in range(pieces))
    if points[0][1] is None:  # what has no value lies at the edge
        return [part[0] for part in parts]
    kept: list[Point] = []
    for part in parts:
        kept += sorted({min(part, key=value), max(part, key=value)})
    return kept


def curve_data(own: Sequence[tuple[float, float]], champion: CommitCurves) -> dict[str, Any]:
    """Return an experiment's loss curve, and the champion's runs beside it: their mean, and where they lay."""
    runs = [windows_of(run) for run in champion.runs]
    band = []
    for window in range(WINDOWS):
        losses = [loss for run in runs if (loss := run[window]) is not None]
        if losses:
            band.append([(window + 1) / WINDOWS, min(losses), sum(losses) / len(losses), max(losses)])
    return {"own": [list(point) for point in own], "champion": band, "runs": len(runs)}


def _filter(overview: Overview, filters: dict[str, str]) -> Callable[[int], bool] | None:
    """Return whether an experiment passes the filters, by its number; None where there are none."""
    author, device, tag = (filters.get(name) for name in ("author", "device", "tag"))
    if not (author or device or tag):
        return None
    tagged = overview.all_of(overview.proposals.tagged(tag)) if tag else set()

    def keeps(number: int) -> bool:
        e = overview.ended[number - 1]
        return (
            (not author or author == (THE_LAB if e.by_lab else e.author))
            and (not device or device == e.device)
            and (not tag or e.commit in tagged)
        )

    return keeps


def _title(proposal: Proposal | None, hypothesis: str) -> str:
    return (proposal.title if proposal and proposal.title else "") or beginning(hypothesis)
