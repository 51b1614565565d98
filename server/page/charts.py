"""The numbers behind the page's charts: few enough for a browser, however long the campaign."""

from collections.abc import Iterable, Sequence
from typing import Any

from autoresearch_mcp.server.goal import WORDS
from autoresearch_mcp.server.lab.campaigns import Overview
from autoresearch_mcp.server.lab.curve_plot import CommitCurves
from autoresearch_mcp.server.lab.progress import headline
from autoresearch_mcp.server.lab.titles import beginning
from autoresearch_mcp.server.models import Proposal
from autoresearch_mcp.server.pace import WINDOWS, windows_of

MOST = 2_000  # points of one kind, about


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

    def shown(number: int) -> bool:
        e = overview.ended[number - 1]
        author, device, tag = filters.get("author"), filters.get("device"), filters.get("tag")
        return (
            first <= number <= last
            and (not author or author == ("the lab" if e.by_lab else e.author))
            and (not device or device == e.device)
            and (not tag or tag in overview.tags(e.commit))
        )

    champions = {champion.commit for champion in progress.champions[1:]}
    compared = [point for point in progress.compared if shown(point[0])]
    kinds: dict[str, list[tuple[int, float | None]]] = {
        "tried": [(n, y) for n, y, commit in compared if commit not in champions],
        "promoted": [(n, y) for n, y, commit in compared if commit in champions],
        "not verified": [(n, y) for n, y in progress.unverified if shown(n) and not progress.reported],
        "other conditions": [(n, y) for n, y in progress.elsewhere if shown(n)],
        "failed": [(n, None) for n in progress.failed if shown(n)],
        "stopped early": [(n, None) for n in progress.stopped if shown(n)],
        "another device": [(n, None) for n in progress.screened if shown(n)],
    }
    points = {kind: thin(of_kind) for kind, of_kind in kinds.items() if of_kind}
    numbers = sorted({n for of_kind in points.values() for n, _ in of_kind})
    return {
        "title": headline(progress),
        "metric": f"{progress.reported or progress.measured}, {WORDS[progress.goal]}",
        "goal": progress.goal,
        "total": progress.total,
        "range": [first, last],
        "points": {kind: [[n for n, _ in of_kind], [y for _, y in of_kind]] for kind, of_kind in points.items()},
        "labels": {n: _label(overview, n) for n in numbers} if len(numbers) <= MOST else {},
        "ids": {n: overview.ended[n - 1].id for n in numbers},
        "champions": [
            {
                "start": c.start,
                "level": c.level,
                "commit": c.commit,
                "comparable": c.comparable,
                "title": _title(overview.proposals.get(c.commit), c.hypothesis),
                "band": [[at.number, at.mean, at.low, at.high] for at in c.band],
            }
            for c in progress.champions
        ],
    }


def thin(points: Sequence[tuple[int, float | None]], most: int = MOST) -> list[tuple[int, float | None]]:
    """Return the points, of a long row only the lowest and the highest of each piece, so that its outline stays."""
    if len(points) <= most:
        return list(points)
    kept: list[tuple[int, float | None]] = []
    pieces = most // 2
    for piece in range(pieces):
        part = points[piece * len(points) // pieces : (piece + 1) * len(points) // pieces]
        valued = [(y, n) for n, y in part if y is not None]
        ends = {min(valued)[1]: min(valued)[0], max(valued)[1]: max(valued)[0]} if valued else {part[0][0]: None}
        kept += sorted(ends.items())
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


def choices(overview: Overview) -> dict[str, list[str]]:
    """Return what can be filtered by."""
    return {
        "author": _sorted("the lab" if e.by_lab else e.author for e in overview.ended),
        "device": _sorted(e.device for e in overview.ended),
        "tag": _sorted(tag for proposal in overview.proposals.values() for tag in proposal.tags),
    }


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(set(names))[:200]


def _label(overview: Overview, number: int) -> str:
    e = overview.ended[number - 1]
    return f"{_title(overview.proposals.get(e.commit), e.hypothesis)} · {'the lab' if e.by_lab else e.author}"


def _title(proposal: Proposal | None, hypothesis: str) -> str:
    return (proposal.title if proposal and proposal.title else "") or beginning(hypothesis)
