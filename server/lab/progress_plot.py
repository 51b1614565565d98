"""The picture of a campaign: every ended experiment as a point, the champion's metric as a line, promotions labelled.

Drawn with matplotlib's Agg canvas and without pyplot, so it needs no display and holds no state. matplotlib is imported on the
first call (about a second). Labels are agents' text: cleaned, capped, and never read as mathematics.
"""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.server.answers import ProgressPicture
from autoresearch_mcp.server.goal import WORDS
from autoresearch_mcp.server.lab.drawing import DRAWING, FAINT, FONT, INK, LINE, short, write
from autoresearch_mcp.server.lab.intervals import Interval
from autoresearch_mcp.server.lab.progress import MOST_UNDECIDED, Champion, Progress, headline, in_words

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

_KEPT, _FAILED, _POINT = "#009E73", "#D55E00", "#8C939C"
_OPEN = "#E69F00"  # orange
_APART = "#B6BCC5"  # what is compared with nothing here
_MOST_LABELS = 12
_LABEL_LENGTH = 34
_MOST_COVERED = 3  # points of the picture that a label may hide
_MANY, _CELL = 5_000, 2.0  # of more points of a kind, one is drawn in each square of so many pixels: they are drawn larger than that


def draw(progress: Progress, title: str) -> ProgressPicture:
    """Draw a campaign as a PNG of 1000 x 600 pixels, and say the same as text. Thread-safe.

    Args:
        progress: the campaign as points.
        title: the lab's name.
    """
    with DRAWING:
        return ProgressPicture(png=_png(progress, title), text=in_words(progress, title, short))


def _png(progress: Progress, title: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.073, 0.1, 0.9, 0.735))
    _frame(axes, progress)
    _head(figure, progress, title)
    if progress.total:
        low, high = _limits(progress)
        axes.set_ylim(low, high)
        _points(axes, progress, low, high)
        _champion_line(axes, progress)
        _undecided(axes, progress)
        _legend(figure, axes)
        _labels(canvas, axes, progress)
    else:
        text = "No experiment has ended yet.\nEach one will be a point here: launch_training starts the first."
        write(axes, 0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=13, color=FAINT, linespacing=1.8)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _frame(axes: "Axes", progress: Progress) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#E5E7EB", linewidth=0.8)
    axes.tick_params(length=0, labelsize=10, labelcolor=FAINT, labelfontfamily=FONT)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#C5CAD1")
    if not progress.total:
        axes.set_axis_off()
        return
    axes.set_xlabel("experiments, in the order they ended", color=FAINT, fontsize=10, fontfamily=FONT)
    axes.set_xlim(1 - max(0.6, 0.02 * progress.total), progress.total + max(0.6, 0.02 * progress.total))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if progress.verified or progress.unverified or progress.elsewhere or any(y is not None for _, y in progress.imported):
        name = f"{progress.reported}, reported by the code itself, not verified" if progress.reported else progress.measured
        write(axes, -0.055, 1.035, f"{name}, {WORDS[progress.goal]}", transform=axes.transAxes, color=FAINT, fontsize=10, va="center")
    else:
        axes.set_yticks([])
        note = "No experiment has a metric yet: read_log and get_experiment tell why they failed."
        write(axes, 0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", fontsize=13, color=FAINT)


def _head(figure: "Figure", progress: Progress, title: str) -> None:
    write(figure, 0.022, 0.955, short(title, 70) or "Progress", fontsize=16, fontweight="bold", color=INK, va="center")
    write(figure, 0.022, 0.908, headline(progress), fontsize=10.5, color=FAINT, va="center")


def _limits(progress: Progress) -> tuple[float, float]:
    """Return the lowest and highest value to show: all but the awful of what is compared.

    What lies beyond Tukey's fence on the worse side is marked at the edge, unless a champion was there. What stands apart makes no room for itself.
    """
    levels = [champion.level for champion in progress.champions]
    apart = [y for _, y in progress.elsewhere] + [y for _, y in progress.imported if y is not None]
    values = sorted([y for _, y, _ in progress.verified] or [y for _, y in progress.unverified] or ([] if levels else apart))
    if not values and not levels:
        return 0.0, 1.0
    quarter, three = (values or levels)[len(values) // 4], (values or levels)[3 * len(values) // 4]
    reach, falls = 1.5 * (three - quarter), progress.goal == "min"
    inside = [value for value in values if (value <= three + reach if falls else value >= quarter - reach)]
    kept = inside + levels + [at.low if falls else at.high for at in _shown(progress)]
    low, high = min(kept), max(kept)
    margin = max((high - low) * 0.1, abs(high) * 1e-3, 1e-6)
    return (low - 1.6 * margin, high + 1.2 * margin) if falls else (low - 1.2 * margin, high + 1.6 * margin)


def _points(axes: "Axes", progress: Progress, low: float, high: float) -> None:
    size = 42 if progress.total <= 60 else 26 if progress.total <= 300 else 12
    top = high - 0.022 * (high - low)
    bottom = low + 0.022 * (high - low)
    falls = progress.goal == "min"
    edge_at = top if falls else bottom  # the worse side, where what has no place is marked
    off = [(x, edge_at) for x, y, _ in progress.compared if (y > high if falls else y < low)]
    champions = {champion.commit for champion in progress.champions[1:]}
    elsewhere = [(x, min(max(y, bottom), top)) for x, y in progress.elsewhere]
    imported = [(x, edge_at if y is None else min(max(y, bottom), top)) for x, y in progress.imported]
    style: dict[str, Any] = {"s": size, "linewidths": 1.1, "zorder": 3, "clip_on": False}
    groups = (
        (
            "tried",
            [(x, y) for x, y, commit in progress.verified if low <= y <= high and commit not in champions],
            "o",
            _POINT,
            "white",
            0.5,
        ),
        ("promoted", [(x, y) for x, y, commit in progress.verified if low <= y <= high and commit in champions], "o", _KEPT, "white", 0.5),
        ("not verified", [(x, y) for x, y in progress.unverified if low <= y <= high], "o", "none", _POINT, None),
        ("off the scale", off, "^" if falls else "v", _POINT, "white", 0.5),
        ("failed", [(x, edge_at) for x in progress.failed], "x", _FAILED, None, None),
        ("stopped early", [(x, edge_at) for x in progress.stopped], "+", _FAILED, None, None),
        ("cancelled", [(x, edge_at) for x in progress.cancelled], "x", _APART, None, None),
        ("other conditions", elsewhere, "o", "none", _APART, None),
        ("of other labs", imported, "s", "none", _APART, None),
        ("another device", [(x, edge_at) for x in progress.screened], "d", _POINT, "white", 0.5),
    )
    for label, points, marker, colour, edge, width in groups:
        if points:
            own = style | ({"edgecolors": edge} if edge else {}) | ({"linewidths": width} if width else {})
            shown = _uncovered(axes, points)
            axes.scatter([x for x, _ in shown], [y for _, y in shown], marker=marker, c=colour, label=label, **own)


def _uncovered(axes: "Axes", points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return the points without those of a long row that later ones cover."""
    if len(points) <= _MANY:
        return points
    import numpy as np

    cells = (axes.transData.transform(points) / _CELL).astype(np.int64)
    _, last = np.unique((cells[:, 0] * 100_000 + cells[:, 1])[::-1], return_index=True)
    return [points[place] for place in sorted(len(points) - 1 - last)]


def _champion_line(axes: "Axes", progress: Progress) -> None:
    """Draw the champion's mean as it was known at each time, and its 95 % interval as a band."""
    if not progress.champions:
        return
    end = progress.total + max(0.6, 0.02 * progress.total)
    ends = [champion.start for champion in progress.champions[1:]] + [end]
    metric = "mean, reported" if progress.reported else "mean"
    style: dict[str, Any] = {"where": "post", "linewidth": 2, "zorder": 2.5, "solid_capstyle": "round"}
    for comparable, colour, label in ((False, _APART, f"earlier champion ({metric})"), (True, LINE, f"champion ({metric})")):
        xs, ys = list[float](), list[float]()
        for champion in progress.champions:
            points = _steps(champion)
            xs += [x for x, _ in points]
            ys += [y if champion.comparable is comparable else math.nan for _, y in points]
        if not all(map(math.isnan, ys)):
            axes.step([*xs, end], [*ys, ys[-1]], color=colour, label=label, **style)
    label = "its 95 % interval"
    for champion, until in zip(progress.champions, ends):
        if champion.band and champion.comparable:
            xs = [*(float(at.number) for at in champion.band), float(until)]
            low, high = ([*edge, edge[-1]] for edge in zip(*((at.low, at.high) for at in champion.band)))
            axes.fill_between(xs, low, high, step="post", color=LINE, alpha=0.15, linewidth=0, zorder=1.5, label=label)
            label = "_"  # named once


def _steps(champion: Champion) -> list[tuple[float, float]]:
    """Return from which experiment on the champion's line is how high; there is a first one."""
    begins = [(float(champion.start), champion.level)] if not champion.band or champion.band[0].number > champion.start else []
    return begins + [(max(float(at.number), champion.start), at.mean) for at in champion.band]


def _shown(progress: Progress) -> list[Interval]:
    return list(progress.undecided.values())[-MOST_UNDECIDED:]


def _undecided(axes: "Axes", progress: Progress) -> None:
    """Draw the candidates that the gate has not decided on as means with their 95 % intervals."""
    if shown := _shown(progress):
        xs, ys, halves = zip(*((at.number, at.mean, at.half) for at in shown))
        style: dict[str, Any] = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5, "elinewidth": 1.4, "zorder": 3.5}
        axes.errorbar(xs, ys, halves, fmt="D", color=_OPEN, label="undecided (95 %)", **style)


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    rows = 1 if len(labels) <= 6 else 2
    figure.legend(
        handles,
        labels,
        loc="upper right",
        bbox_to_anchor=(0.985, 0.88 if rows == 1 else 0.894),
        ncols=math.ceil(len(labels) / rows),
        frameon=False,
        prop={"family": FONT, "size": 9.5 if rows == 1 else 8},
        labelcolor=FAINT,
        handletextpad=0.3,
        columnspacing=1.4,
        labelspacing=0.3,
        borderaxespad=0,
    )


def _labels(canvas: Any, axes: "Axes", progress: Progress) -> None:
    """Name the champions, largest steps first, each where it covers as little as possible. Where there is no room, only the text does."""
    from matplotlib.transforms import Bbox

    steps = list(zip(progress.champions, [None, *progress.champions]))
    steps.sort(key=lambda step: math.inf if step[1] is None else abs(step[0].level - step[1].level), reverse=True)
    frame = axes.get_window_extent(canvas.get_renderer())
    xs, ys = _obstacles(axes, progress)
    taken: list[Bbox] = []
    for champion, _ in steps[:_MOST_LABELS]:
        if not (label := short(champion.hypothesis, _LABEL_LENGTH)):
            continue
        text = axes.text(0, 0, label, fontsize=9, fontfamily=FONT, parse_math=False)
        size = text.get_window_extent(canvas.get_renderer())
        text.remove()
        begins = _steps(champion)[0]
        at = axes.transData.transform(begins)
        boxes: list[tuple[int, int, Bbox, tuple[int, int, str]]] = []
        for dx, down, ha in _PLACES:
            dy = down if progress.goal == "min" else -down  # into the side that the line leaves empty
            left, middle = at[0] + dx * _PIXELS - (size.width if ha == "right" else 0), at[1] + dy * _PIXELS
            box = Bbox.from_bounds(left - 3, middle - size.height / 2 - 2, size.width + 6, size.height + 4)
            inside = frame.x0 - 6 <= box.x0 and box.x1 <= frame.x1 + 14 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                near = ys[xs.searchsorted(box.x0) : xs.searchsorted(box.x1, "right")]
                boxes.append((int(((box.y0 <= near) & (near <= box.y1)).sum()), len(boxes), box, (dx, dy, ha)))
        if boxes:
            faults, _, box, (dx, dy, ha) = min(boxes, key=lambda place: place[:2])
            if faults <= _MOST_COVERED:
                taken.append(box)
                _annotate(axes, begins, label, dx, dy, ha)


def _obstacles(axes: "Axes", progress: Progress) -> tuple["Numbers", "Numbers"]:
    """Return what a label should not cover, in pixels from left to right: the points, and the champion's line every few pixels."""
    import numpy as np

    points = [(x, y) for x, y, _ in progress.verified] + [(x, y) for x, y in progress.unverified + progress.elsewhere]
    line: list[tuple[float, float]] = []
    ends = [champion.start for champion in progress.champions[1:]] + [progress.total]
    for champion, end in zip(progress.champions, ends):
        steps = _steps(champion)
        for (x, y), until in zip(steps, [*(x for x, _ in steps[1:]), float(end)]):
            pieces = 1 + int(120 * (until - x) / progress.total)
            line += [(x + (until - x) * piece / pieces, y) for piece in range(pieces + 1)]
    if not (points or line):
        return np.empty(0), np.empty(0)
    places = axes.transData.transform([*points, *line])
    places = places[places[:, 0].argsort()]
    return places[:, 0], places[:, 1]


# Offsets in points for a falling line, which leaves the picture empty below it to the left: first there, then farther, then above
_PLACES = [(dx, dy, ha) for dy in (-14, -27, -40, -56, -74) for dx, ha in ((-6, "right"), (6, "left"))] + [
    (dx, dy, ha) for dy in (14, 28, 44, 62) for dx, ha in ((6, "left"), (-6, "right"))
]
_PIXELS = 100 / 72  # of a point


def _annotate(axes: "Axes", at: tuple[float, float], label: str, dx: float, dy: float, ha: str) -> None:
    axes.annotate(
        label,
        at,
        xytext=(dx, dy),
        textcoords="offset points",
        ha=ha,
        va="center",
        fontsize=9,
        fontfamily=FONT,
        color=INK,
        parse_math=False,
        zorder=4,
        arrowprops={"arrowstyle": "-", "color": "#9AA1AB", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
    )
