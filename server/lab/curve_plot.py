"""The loss curves of a few commits beside the champion's: above as they are, below as differences from the champion.

A commit's curve is the mean over its replicates, smoothed over three windows of 5 % of the budget. Drawn like the picture of the
campaign (see `progress_plot`). The losses are what the training code reports of itself: they explain a metric and decide nothing.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoresearch_mcp.server.answers import ProgressPicture
from autoresearch_mcp.server.lab.curves import thinned
from autoresearch_mcp.server.lab.drawing import DRAWING, FAINT, FONT, INK, LINE, short, write
from autoresearch_mcp.server.pace import WINDOWS, windows_of
from autoresearch_mcp.server.untrusted import fence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_RUNS = 8  # of a commit, the newest
_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's, without the champion's blue
_FIRST_SHOWN = 6  # windows at the beginning that make no room for themselves: losses fall steeply there
_LEGEND = 44  # characters


@dataclass(frozen=True)
class CommitCurves:
    """The curves of a commit's replicates.

    Attributes:
        commit: its full id.
        title: the idea in a few words.
        runs: the digest of the curve of each replicate that finished, as (share of the budget, loss).
        live: likewise of those that run. They are the mean only where none has finished: a curve that ends early would bend it.
        is_champion: whether it is the champion.
    """

    commit: str
    title: str
    runs: Sequence[Sequence[tuple[float, float]]]
    live: Sequence[Sequence[tuple[float, float]]] = ()
    is_champion: bool = False

    @property
    def mean(self) -> list[tuple[float, float]]:
        """The mean over the replicates, smoothed: (share at a window's end, loss), where any of them reported one."""
        every = [windows_of(run) for run in self.runs or self.live]
        means = []
        for window in range(WINDOWS):
            losses = [run[window] for run in every if run[window] is not None]
            means.append(sum(filter(None, losses)) / len(losses) if losses else None)
        smooth = []
        for window, mean in enumerate(means):
            near = [each for each in means[max(0, window - 1) : window + 2] if each is not None]
            if mean is not None:
                smooth.append(((window + 1) / WINDOWS, sum(near) / len(near)))
        return smooth

    @property
    def label(self) -> str:
        """What the legend calls it."""
        name = "champion" if self.is_champion else self.title
        going = f", {len(self.live)} running" if self.live else ""
        return f"{short(name, _LEGEND)}  {self.commit[:7]} (n={len(self.runs)}{going})"


def draw_curves(commits: Sequence[CommitCurves], title: str) -> ProgressPicture:
    """Draw the curves as a PNG of 1000 x 600 pixels, and tell 12 points of each as text. Thread-safe.

    Args:
        commits: the champion among them, where it has curves.
        title: the lab's name.
    """
    with DRAWING:
        return ProgressPicture(png=_png(commits, title), text=in_words(commits))


def in_words(commits: Sequence[CommitCurves]) -> str:
    """Return 12 points of each curve, and the difference from the champion's at the end."""
    champion = dict(next((each.mean for each in commits if each.is_champion), []))
    lines = []
    for each in commits:
        curve = each.mean
        if not curve:
            lines.append(f"{each.label}: no curve yet.")
            continue
        points = ", ".join(f"{share:.0%} {loss:.4f}" for share, loss in thinned(curve))
        last = next(((share, loss) for share, loss in reversed(curve) if share in champion), None)
        apart = f" At {last[0]:.0%} it is {last[1] - champion[last[0]]:+.4f} from the champion's." if last and not each.is_champion else ""
        lines.append(f"{each.label}: {points}.{apart}")
    heading = "smoothed training losses by share of the budget, as the code reports them; lower is better"
    return fence("\n".join(lines), heading, 8_000)


def _png(commits: Sequence[CommitCurves], title: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    above, below = figure.add_axes((0.073, 0.4, 0.9, 0.44)), figure.add_axes((0.073, 0.1, 0.9, 0.24))
    write(figure, 0.022, 0.955, short(title, 70), fontsize=16, fontweight="bold", color=INK, va="center")
    write(figure, 0.022, 0.908, "training loss, as the code reports it", fontsize=10.5, color=FAINT, va="center")
    write(figure, 0.022, 0.372, "difference from the champion's", fontsize=10, color=FAINT, va="center")
    for axes in (above, below):
        _frame(axes)
    above.tick_params(labelbottom=False)
    below.set_xlabel("share of the training budget", color=FAINT, fontsize=10, fontfamily=FONT)
    champion = dict(next((each.mean for each in commits if each.is_champion), []))
    drawn = [each for each in commits if each.mean]
    colours = iter(_COLOURS)
    differences = list[tuple[float, float]]()
    for each in drawn:
        curve = each.mean
        colour = LINE if each.is_champion else next(colours)
        width = 2.6 if each.is_champion else 1.8
        for run in [*each.runs, *each.live]:
            above.plot(*zip(*run), color=colour, alpha=0.2, linewidth=0.8, zorder=2)
        above.plot(*_centred(curve), color=colour, linewidth=width, label=each.label, zorder=3, solid_capstyle="round")
        if apart := [(share, loss - champion[share]) for share, loss in curve if share in champion]:
            below.plot(*_centred(apart), color=colour, linewidth=width, zorder=3, solid_capstyle="round")
            differences += apart
    if not drawn:
        above.set_axis_off()
        below.set_axis_off()
        note = "None of these has a curve yet.\nwait_for_experiments tells when their trainings have begun."
        write(above, 0.5, 0.3, note, transform=above.transAxes, ha="center", va="center", fontsize=13, color=FAINT, linespacing=1.8)
    else:
        _fit(above, [point for each in drawn for point in each.mean])
        _fit(below, differences)
        style = {"family": FONT, "size": 9.5}
        legend = above.legend(loc="upper right", frameon=False, prop=style, labelcolor=INK, handlelength=1.6, labelspacing=0.35)
        for text in legend.get_texts():
            text.set_parse_math(False)
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return buffer.getvalue()


def _centred(curve: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return a curve of windows with each in its middle, where the runs that it is the mean of have it."""
    return [share - 0.5 / WINDOWS for share, _ in curve], [loss for _, loss in curve]


def _frame(axes: "Axes") -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#E5E7EB", linewidth=0.8)
    axes.tick_params(length=0, labelsize=10, labelcolor=FAINT, labelfontfamily=FONT)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#C5CAD1")
    axes.set_xlim(0, 1.01)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))


def _fit(axes: "Axes", points: Sequence[tuple[float, float]]) -> None:
    """Make room for curves. Their first windows, where losses fall steeply, make none for themselves."""
    values = [y for x, y in points if x * WINDOWS > _FIRST_SHOWN] or [y for _, y in points]
    if values:
        margin = max((max(values) - min(values)) * 0.08, 1e-4)
        axes.set_ylim(min(values) - margin, max(values) + margin)
