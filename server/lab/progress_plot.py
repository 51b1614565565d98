"""The picture of a campaign: every ended experiment as a point, the champion's metric as a falling line, promotions labelled.

Drawn with matplotlib's Agg canvas and without pyplot, so it needs no display and holds no state; matplotlib is imported on the
first call (about a second). Labels are agents' text: cleaned, capped, and never read as mathematics.
"""

import io
import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.server.answers import ProgressPicture
from autoresearch_mcp.server.gate.spread import mean
from autoresearch_mcp.server.models import Experiment, Promotion
from autoresearch_mcp.server.untrusted import clean, fence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision
_KEPT, _LINE, _FAILED, _POINT, _INK, _FAINT = "#009E73", "#0072B2", "#D55E00", "#8C939C", "#22262B", "#6B7280"
_FONT = "DejaVu Sans"  # comes with matplotlib: the picture is the same everywhere
_MOST_LABELS = 12
_LABEL_LENGTH = 34
_MOST_COVERED = 3  # points of the picture that a label may hide
_DRAWING = threading.Lock()  # matplotlib's caches of fonts and text layouts are shared by all figures


@dataclass(frozen=True)
class Champion:
    """A commit that the research branch pointed to, from experiment number `start` on."""

    commit: str
    start: int
    level: float
    hypothesis: str


@dataclass(frozen=True)
class Progress:
    """A campaign as data; experiments are numbered from 1 in the order in which they ended."""

    total: int
    verified: list[tuple[int, float, str]]  # number, val_bpb, commit
    unverified: list[tuple[int, float]]  # finished, with a printed metric only
    reported: str  # name of the printed metric, where the lab goes by that; the champions are then those that it chose
    failed: list[int]
    cancelled: list[int]
    screened: list[int]  # measured on another kind of device than the reference: on a scale of its own
    states: dict[str, int]
    champions: list[Champion]

    @classmethod
    def of(
        cls, experiments: Sequence[Experiment], promotions: Sequence[Promotion], reported: str = "", reference: str = "cpu"
    ) -> "Progress":
        ended = sorted((e for e in experiments if e.terminal), key=lambda e: (e.finished_at or e.created_at, e.id))
        verified: list[tuple[int, float, str]] = []
        unverified: list[tuple[int, float]] = []
        failed: list[int] = []
        cancelled: list[int] = []
        screened: list[int] = []
        for number, e in enumerate(ended, 1):
            if e.state == "finished" and e.device != reference:
                screened.append(number)
            elif e.state == "finished" and (value := _finite(e.val_bpb)) is not None:
                verified.append((number, value, e.commit))
            elif e.state == "finished" and (value := _finite(e.reported_bpb)) is not None:
                unverified.append((number, value))
            else:
                (cancelled if e.state == "cancelled" else failed).append(number)
        states = dict(Counter(str(e.state) for e in ended))
        chosen = [p for p in promotions if p.verdict.get("metric", "verified") == ("reported" if reported else "verified")]
        champions = _champions(ended, chosen, bool(reported), reference)
        return cls(len(ended), verified, unverified, reported, failed, cancelled, screened, states, champions)


def draw(
    experiments: Sequence[Experiment], promotions: Sequence[Promotion], title: str, reported: str = "", reference: str = "cpu"
) -> ProgressPicture:
    """The campaign as a PNG of 1000 x 600 pixels and as text. Thread-safe. `reported`: see `Progress`; `reference`: the kind of device that is drawn."""
    progress = Progress.of(experiments, promotions, reported, reference)
    with _DRAWING:
        return ProgressPicture(png=_png(progress, title), text=_text(progress, title))


def _champions(ended: Sequence[Experiment], promotions: Sequence[Promotion], reported: bool, reference: str) -> list[Champion]:
    """The baseline and every promoted commit of which a metric is known, in order; reported and verified ones are never mixed."""
    scores: dict[str, list[float]] = {}
    hypotheses: dict[str, str] = {}
    first: dict[str, int] = {}
    for number, e in enumerate(ended, 1):
        first.setdefault(e.commit, number)
        hypotheses.setdefault(e.commit, e.hypothesis)
        counts = (e.val_bpb is None) == reported and not e.reproduces and e.device == reference
        if counts and (value := _finite(e.metric)) is not None:
            scores.setdefault(e.commit, []).append(value)
    promotions = sorted(promotions, key=lambda p: (p.created_at, p.id))
    baseline = promotions[0].previous if promotions else next((e.commit for e in ended if e.base == e.commit), "")
    measured = _finite(promotions[0].verdict.get("champion_mean")) if promotions else None
    found = []
    if baseline in scores or measured is not None:
        level = mean(scores[baseline]) if baseline in scores else measured
        found.append(Champion(baseline, first.get(baseline, 1), level or 0.0, "baseline"))
    for promotion in promotions:
        level = _finite(promotion.verdict.get("candidate_mean"))
        if level is None and promotion.commit in scores:
            level = mean(scores[promotion.commit])
        if level is not None:
            before = sum((e.finished_at or e.created_at) <= promotion.created_at for e in ended)
            found.append(Champion(promotion.commit, max(before, 1), level, hypotheses.get(promotion.commit, "")))
    return found


def _finite(value: Any) -> float | None:
    """A number that can be drawn, or None."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e6 else None


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
        _legend(figure, axes)
        _labels(canvas, axes, progress)
    else:
        text = "No experiment has ended yet.\nEach one will be a point here: launch_training starts the first."
        _write(axes, 0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=13, color=_FAINT, linespacing=1.8)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _frame(axes: "Axes", progress: Progress) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#E5E7EB", linewidth=0.8)
    axes.tick_params(length=0, labelsize=10, labelcolor=_FAINT, labelfontfamily=_FONT)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#C5CAD1")
    if not progress.total:
        axes.set_axis_off()
        return
    axes.set_xlabel("experiments, in the order they ended", color=_FAINT, fontsize=10, fontfamily=_FONT)
    axes.set_xlim(1 - max(0.6, 0.02 * progress.total), progress.total + max(0.6, 0.02 * progress.total))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if progress.verified or progress.unverified:
        name = f"{progress.reported}, reported by the code itself, not verified" if progress.reported else "val_bpb"
        _write(axes, -0.055, 1.035, f"{name}, lower is better", transform=axes.transAxes, color=_FAINT, fontsize=10, va="center")
    else:
        axes.set_yticks([])
        note = "No experiment has a metric yet: read_log and get_experiment tell why they failed."
        _write(axes, 0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", fontsize=13, color=_FAINT)


def _head(figure: "Figure", progress: Progress, title: str) -> None:
    _write(figure, 0.022, 0.955, _short(title, 70) or "Progress", fontsize=16, fontweight="bold", color=_INK, va="center")
    _write(figure, 0.022, 0.908, _summary(progress), fontsize=10.5, color=_FAINT, va="center")


def _limits(progress: Progress) -> tuple[float, float]:
    """Room for all but the awful: what lies beyond Tukey's upper fence is marked at the edge, unless a champion was there."""
    values = sorted([y for _, y, _ in progress.verified]) or sorted(y for _, y in progress.unverified)
    levels = [champion.level for champion in progress.champions]
    if not values and not levels:
        return 0.0, 1.0
    quarter, three = (values or levels)[len(values) // 4], (values or levels)[3 * len(values) // 4]
    fence_at = three + 1.5 * (three - quarter)
    kept = [value for value in values if value <= fence_at] + levels
    low, high = min(kept), max(kept)
    margin = max((high - low) * 0.1, abs(high) * 1e-3, 1e-6)
    return low - 1.6 * margin, high + 1.2 * margin


def _points(axes: "Axes", progress: Progress, low: float, high: float) -> None:
    size = 42 if progress.total <= 60 else 26 if progress.total <= 300 else 12
    top = high - 0.022 * (high - low)
    champions = {champion.commit for champion in progress.champions[1:]}
    style: dict[str, Any] = {"s": size, "linewidths": 1.1, "zorder": 3, "clip_on": False}
    groups = (
        ("tried", [(x, y) for x, y, commit in progress.verified if y <= high and commit not in champions], "o", _POINT, "white", 0.5),
        ("promoted", [(x, y) for x, y, commit in progress.verified if y <= high and commit in champions], "o", _KEPT, "white", 0.5),
        ("not verified", [(x, y) for x, y in progress.unverified if low <= y <= high], "o", "none", _POINT, None),
        ("off the scale", [(x, top) for x, y, _ in progress.verified if y > high], "^", _POINT, "white", 0.5),
        ("failed", [(x, top) for x in progress.failed], "x", _FAILED, None, None),
        ("cancelled", [(x, top) for x in progress.cancelled], "x", "#B6BCC5", None, None),
        ("another device", [(x, top) for x in progress.screened], "d", _POINT, "white", 0.5),
    )
    for label, points, marker, colour, edge, width in groups:
        if points:
            own = style | ({"edgecolors": edge} if edge else {}) | ({"linewidths": width} if width else {})
            axes.scatter([x for x, _ in points], [y for _, y in points], marker=marker, c=colour, label=label, **own)


def _champion_line(axes: "Axes", progress: Progress) -> None:
    if progress.champions:
        xs = [champion.start for champion in progress.champions] + [progress.total + max(0.6, 0.02 * progress.total)]
        ys = [champion.level for champion in progress.champions]
        label = "champion (mean, reported)" if progress.reported else "champion (mean)"
        axes.step(xs, [*ys, ys[-1]], where="post", color=_LINE, linewidth=2, zorder=2.5, solid_capstyle="round", label=label)


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper right",
        bbox_to_anchor=(0.985, 0.88),
        ncols=len(labels),
        frameon=False,
        prop={"family": _FONT, "size": 9.5},
        labelcolor=_FAINT,
        handletextpad=0.3,
        columnspacing=1.4,
        borderaxespad=0,
    )


def _labels(canvas: Any, axes: "Axes", progress: Progress) -> None:
    """Names the champions, largest steps first, each where it covers as little as possible; without room the text alone names it."""
    from matplotlib.transforms import Bbox

    steps = list(zip(progress.champions, [None, *progress.champions]))
    steps.sort(key=lambda step: math.inf if step[1] is None else abs(step[0].level - step[1].level), reverse=True)
    frame = axes.get_window_extent(canvas.get_renderer())
    obstacles = _obstacles(axes, progress)
    taken: list[Bbox] = []
    for champion, _ in steps[:_MOST_LABELS]:
        if not (label := _short(champion.hypothesis, _LABEL_LENGTH)):
            continue
        text = axes.text(0, 0, label, fontsize=9, fontfamily=_FONT, parse_math=False)
        size = text.get_window_extent(canvas.get_renderer())
        text.remove()
        at = axes.transData.transform((champion.start, champion.level))
        boxes: list[tuple[int, int, Bbox, tuple[int, int, str]]] = []
        for dx, dy, ha in _PLACES:
            left, middle = at[0] + dx * _PIXELS - (size.width if ha == "right" else 0), at[1] + dy * _PIXELS
            box = Bbox.from_bounds(left - 3, middle - size.height / 2 - 2, size.width + 6, size.height + 4)
            inside = frame.x0 - 6 <= box.x0 and box.x1 <= frame.x1 + 14 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                boxes.append((sum(box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1 for x, y in obstacles), len(boxes), box, (dx, dy, ha)))
        if boxes:
            faults, _, box, (dx, dy, ha) = min(boxes, key=lambda found: found[:2])
            if faults <= _MOST_COVERED:
                taken.append(box)
                _annotate(axes, champion, label, dx, dy, ha)


def _obstacles(axes: "Axes", progress: Progress) -> list[tuple[float, float]]:
    """What a label should not cover, in pixels: the points, and the champion's line every few pixels."""
    points = [(x, y) for x, y, _ in progress.verified] + [(float(x), y) for x, y in progress.unverified]
    line: list[tuple[float, float]] = []
    ends = [champion.start for champion in progress.champions[1:]] + [progress.total]
    for champion, end in zip(progress.champions, ends):
        pieces = 1 + 120 * (end - champion.start) // progress.total
        line += [(champion.start + (end - champion.start) * piece / pieces, champion.level) for piece in range(pieces + 1)]
    return [(float(x), float(y)) for x, y in axes.transData.transform([*points, *line])] if points or line else []


# Offsets in points: first below the line, to the left, where a falling line leaves the picture empty; then farther, then above
_PLACES = [(dx, dy, ha) for dy in (-14, -27, -40, -56, -74) for dx, ha in ((-6, "right"), (6, "left"))] + [
    (dx, dy, ha) for dy in (14, 28, 44, 62) for dx, ha in ((6, "left"), (-6, "right"))
]
_PIXELS = 100 / 72  # of a point


def _annotate(axes: "Axes", champion: Champion, label: str, dx: float, dy: float, ha: str) -> None:
    axes.annotate(
        label,
        (champion.start, champion.level),
        xytext=(dx, dy),
        textcoords="offset points",
        ha=ha,
        va="center",
        fontsize=9,
        fontfamily=_FONT,
        color=_INK,
        parse_math=False,
        zorder=4,
        arrowprops={"arrowstyle": "-", "color": "#9AA1AB", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
    )


def _write(where: Any, x: float, y: float, text: str, **style: Any) -> None:
    where.text(x, y, text, fontfamily=_FONT, parse_math=False, **style)


def _short(text: str, length: int) -> str:
    """One line of the font's characters, cut at a word."""
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(_FONT)).get_charmap()
    line = " ".join("".join(c if c.isspace() or ord(c) in known else "□" for c in clean(text[:1_000])).split())
    if len(line) <= length:
        return line
    head = line[: length - 1]
    return (head.rsplit(" ", 1)[0] if " " in head[length // 2 :] else head).rstrip(" ,.;:") + "…"


def _summary(progress: Progress) -> str:
    parts = []
    if progress.champions:
        champion, baseline = progress.champions[-1], progress.champions[0]
        parts.append(f"champion {champion.commit[:7]} at {champion.level:.4f}{' reported' if progress.reported else ''}")
        if champion is not baseline and baseline.level > 0:
            parts.append(f"{(champion.level / baseline.level - 1) * 100:+.2f}% from the baseline's {baseline.level:.4f}".replace("-", "−"))
    parts.append(_count(progress.total, "experiment") if progress.total else "no experiments yet")
    if promotions := max(len(progress.champions) - 1, 0):
        parts.append(_count(promotions, "promotion"))
    if progress.failed:
        parts.append(f"{len(progress.failed)} failed")
    return "  ·  ".join(parts)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _text(progress: Progress, title: str) -> str:
    """What the picture shows, for readers without eyes."""
    lines = [f"Progress of {_short(title, 70)}: {_summary(progress)}."]
    if progress.states:
        lines.append("Ended: " + ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in sorted(progress.states.items())) + ".")
    if progress.verified:
        number, value, commit = min(progress.verified, key=lambda point: point[1])
        lines.append(f"Best single run: {value:.4f} by {commit[:12]} (number {number}); one run can be luck, see compare and promote.")
    if progress.screened:
        lines.append(f"{_count(len(progress.screened), 'run')} on other kinds of device: marked at the edge, compared with nothing here.")
    if progress.reported:
        lines.append(f"The metric is {progress.reported}, as the training code prints it of itself: reported, verified by nobody.")
    if progress.champions:
        rows = [
            f"after experiment {c.start}: {c.level:.4f}  {c.commit[:12]}  {_short(c.hypothesis, 160)}" for c in progress.champions[-40:]
        ]
        lines.append(fence("\n".join(rows), "champions in order, with their hypotheses"))
    return "\n".join(lines)
