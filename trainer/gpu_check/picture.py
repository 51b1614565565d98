"""Draws the loss of the runs over time, with start, budget and scoring marked, as SVG: no package is needed for it."""

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LANE = 900, 460, 60, 30, 110, 18
COLOURS = ("#1f6feb", "#bc4c00", "#1a7f37", "#8250df")
SHADES = {"start and compile": "#d0d7de", "training": "#dafbe1", "scoring": "#fff8c5"}


def picture(title: str, runs: Sequence[dict[str, Any]]) -> str:
    """Return the picture of some runs.

    Args:
        title: above it.
        runs: each with `label`, `timings` of its result, and `curve`: pairs of seconds of the budget and loss.
    """
    ends = [_stretches(run)[-1][2] for run in runs] or [1.0]
    losses = [loss for run in runs for _, loss in run["curve"]] or [0.0, 1.0]
    longest, low, high = float(max(ends)), float(min(losses)), float(max(losses))
    high = high if high > low else low + 1
    bottom = HEIGHT - BOTTOM

    def across(seconds: float) -> float:
        return LEFT + (WIDTH - LEFT - 20) * seconds / longest

    def down(loss: float) -> float:
        return TOP + (bottom - TOP) * (high - loss) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        loss, seconds = low + share * (high - low), share * longest
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{down(loss):.1f}" y2="{down(loss):.1f}" stroke="#eaeef2"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{down(loss) + 4:.1f}" text-anchor="end">{loss:.2f}</text>')
        parts.append(f'<text x="{across(seconds):.1f}" y="{bottom + 16}" text-anchor="middle">{seconds:.1f} s</text>')
    parts.append(f'<text x="{LEFT + 6}" y="{TOP + 12}" fill="#57606a">loss, nats a token</text>')
    for number, run in enumerate(runs):
        colour, lane = COLOURS[number % len(COLOURS)], bottom + 24 + LANE * number
        began = run["timings"].get("startup_s", 0.0)
        for name, start, end in _stretches(run):
            shape = f'x="{across(start):.1f}" y="{lane}" width="{max(0.5, across(end) - across(start)):.1f}" height="{LANE - 5}"'
            parts.append(f'<rect {shape} fill="{SHADES[name]}" stroke="{colour}" stroke-width="0.7"><title>{name}</title></rect>')
        points = " ".join(f"{across(began + at):.1f},{down(loss):.1f}" for at, loss in run["curve"])
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{LEFT + 4}" y="{lane + 10}" fill="{colour}">{escape(run["label"])}</text>')
    for number, (name, shade) in enumerate(SHADES.items()):
        at = LEFT + 160 * number
        parts.append(f'<rect x="{at}" y="{HEIGHT - 20}" width="14" height="12" fill="{shade}" stroke="#8c959f" stroke-width="0.5"/>')
        parts.append(f'<text x="{at + 20}" y="{HEIGHT - 10}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _stretches(run: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return what a run did, as name, first and last second since it was spawned."""
    timings = run["timings"]
    start = timings.get("startup_s", 0.0)
    trained = start + timings.get("train_s", 0.0)
    return [
        ("start and compile", 0.0, start),
        ("training", start, trained),
        ("scoring", trained, trained + timings.get("score_s", 0.0)),
    ]
