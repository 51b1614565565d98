"""A campaign's report. Every number in it is read from the log."""

import time
from collections import Counter
from typing import Any

from autoresearch_mcp.server.lab.campaigns import Overview
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.progress import Champion
from autoresearch_mcp.server.page.charts import progress_data
from autoresearch_mcp.server.page.diffs import plain
from autoresearch_mcp.server.page.rendering import render, render_markdown

_MOST = 30  # rows of what didn't work


def report(lab: Lab, since: float = 0.0) -> dict[str, str]:
    """Return the report as `report.html` and `report.md`.

    Args:
        lab: whose.
        since: Unix seconds; what ended before is left out.

    Raises:
        LabError: the lab's own.
    """
    context = _context(lab, since)
    return {"report.html": render("report", context), "report.md": render_markdown("report", context)}


def _context(lab: Lab, since: float) -> dict[str, Any]:
    overview, status = lab.overview(), lab.status(steps=False)
    ended = [e for e in overview.ended if e.finished_at >= since]
    every = lab.promotions()
    promotions = [each for each in every if each.created_at >= since]
    champions = overview.progress.champions
    known = {each.commit: each for each in champions}
    before = [known[each.commit] for each in every if each.created_at < since and each.commit in known]
    metrics: dict[str, list[float]] = {}
    for number, value, sha in overview.progress.compared:
        if overview.ended[number - 1].finished_at >= since:
            metrics.setdefault(overview.first_of(sha), []).append(value)
    decided = {sha: verdict for sha, (_, verdict) in lab.last_words(metrics).items()}
    promoted = {*overview.was_champion, overview.first_of(lab.champion())}
    futile = [(sha, decided[sha]) for sha in metrics if sha in decided and sha not in promoted and not decided[sha].promote]
    tags = Counter(tag for sha in {overview.first_of(e.commit) for e in ended} for tag in overview.tags(sha))
    runs: dict[str, str] = {}
    for e in overview.ended:
        if e.state == "finished":
            runs.setdefault(overview.first_of(e.commit), e.id)
    seconds = sum(max(e.finished_at - e.started_at, 0.0) for e in ended if e.started_at)
    return {
        "lab_name": status.lab,
        "metric": status.metric,
        "since": since,
        "now": time.time(),
        "first": [*champions[:1], *before][-1] if champions else None,
        "last": champions[-1] if champions else None,
        "promotions": [
            (
                each,
                overview.heading(each),
                plain(lab.diff(each.commit, each.previous, 20_000)),
                "" if each.is_demotion else runs.get(overview.first_of(each.commit), ""),
            )
            for each in promotions
        ],
        "futile": [(sha, overview.name(sha), verdict, metrics[sha], runs.get(sha, "")) for sha, verdict in futile[:_MOST]],
        "failures": Counter(e.state for e in ended if e.state != "finished").most_common(),
        "tags": [(tag, n) for tag, n in tags.most_common(20)],
        "ended": len(ended),
        "seconds": seconds,
        "budget": status.budget,
        "expected": status.expected_false_promotions,
        "noise": status.noise_sd,
        "chart": _chart(overview),
        "half": _half,
    }


def _half(champion: Champion) -> float | None:
    return champion.band[-1].half if champion.band else None


def _chart(overview: Overview) -> dict[str, Any]:
    """Return points and the champion's line in a box of 900 x 300."""
    data = progress_data(overview, {})
    points = [(x, y, kind) for kind in ("tried", "promoted") if kind in data["points"] for x, y in zip(*data["points"][kind])]
    levels = [c["level"] for c in data["champions"]]
    values = sorted([y for _, y, _ in points] + levels) or [0.0, 1.0]
    low, high = values[0], values[-1]
    if len(values) > 20 and data["goal"] == "min":  # the worst lie at the edge, but for champions
        high = max([values[int(0.95 * len(values))], *levels])
    elif len(values) > 20:
        low = min([values[-int(0.95 * len(values)) - 1], *levels])
    spread, most = (high - low) or 1.0, max(data["total"], 1)

    def place(x: float, y: float) -> tuple[float, float]:
        return round(50 + 830 * x / most, 1), round(280 - 250 * (min(max(y, low), high) - low) / spread, 1)

    steps: list[str] = []
    for champion in data["champions"]:
        x, y = place(champion["start"], champion["level"])
        steps.append(f"H{x}V{y}" if steps else f"M{x} {y}")
    return {
        "points": [(*place(x, y), kind) for x, y, kind in points],
        "line": "".join(steps) + "H880" if steps else "",
        "low": low,
        "high": high,
    }
