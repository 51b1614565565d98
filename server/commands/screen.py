"""Draws the lab on a terminal: one frame for `status`, a live one for `watch`. What agents wrote is cleaned and never taken for markup."""

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoresearch_mcp.server.answers import ExperimentLine, Leader, OpenLaunch, StatusAnswer, Summary
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.untrusted import clean

_COLOURS = {"finished": "green", "running": "cyan", "starting": "cyan", "scoring": "cyan", "queued": "dim", "cancelled": "dim"}
_ROWS = 8


def watch(lab: Lab, console: Console) -> None:
    """Show the lab, drawn again each second, until Ctrl-C."""
    live = Live(frame(lab.status()), console=console, screen=True, auto_refresh=False)
    try:  # not `with live`: a Ctrl-C while it draws its first frame would leave the terminal on the other screen
        live.start(refresh=True)
        while True:
            time.sleep(1)
            live.update(frame(lab.status()), refresh=True)
    except KeyboardInterrupt:
        return
    finally:
        live.stop()


def frame(status: StatusAnswer) -> RenderableType:
    """Return the lab at a glance."""
    parts: list[RenderableType] = [_head(status)]
    if status.running or status.queued:
        parts.append(_running(status))
    if status.open:
        parts.append(_open(status.open))
    if status.leaderboard:
        parts.append(_leaderboard(status.leaderboard[:_ROWS], status))
    if status.recent:
        parts.append(_recent(status.recent[:_ROWS], _metric_name(status)))
    parts += [_line("warning: " + text, "yellow") for text in status.warnings]
    parts += [_line("next: " + text, "dim") for text in status.next]
    return Group(*(Padding(part, (0, 0, 1, 0)) if isinstance(part, Table) else part for part in parts))


def _head(status: StatusAnswer) -> Table:
    budget = status.budget
    grid = Table.grid(padding=(0, 2))
    grid.add_row(_line("lab", "dim"), _line(status.lab, "bold"))
    noise = f", noise {status.noise_sd:.4f}" if status.noise_sd is not None else ""
    grid.add_row(_line("champion", "dim"), Text(f"{status.champion.commit[:12]}  {_metric(status.champion)}{noise}"))
    if status.drift is not None:
        machine = f"{'unsteady' if status.drift >= 1 else 'steady'}: drift at {status.drift:.0%} of its limit"
        steps = f", steps differ by {status.steps_sd:.1%}" if status.steps_sd is not None else ""
        grid.add_row(_line("machine", "dim"), Text(machine + steps))
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items() if count)
    promotions = f"{status.promotions} promotion{'s' * (status.promotions != 1)}"
    promotions += f", of which at most {status.expected_false_promotions:.2g} are expected to be luck"
    grid.add_row(_line("experiments", "dim"), Text(f"{counts or 'none yet'}; {promotions}"))
    spent = f"{_hours(budget.spent_s)} of {_hours(budget.total_s)} used, {_hours(budget.reserved_s)} reserved"
    grid.add_row(_line("budget", "dim"), Text(spent))
    unflushed = f", {status.unflushed} records to flush" if status.unflushed else ""
    grid.add_row(_line("runner", "dim"), Text(("working" if status.runner else "asleep; it starts on demand") + unflushed))
    return grid


def _running(status: StatusAnswer) -> Table:
    table = _table("running", "experiment", "state", "progress", "author", "hypothesis")
    for line in status.running[:_ROWS]:
        bar = ProgressBar(total=1.0, completed=line.progress or 0.0, width=16)
        table.add_row(line.id, _state(line), bar, _line(line.author), _line(line.hypothesis))
    hidden = len(status.running[_ROWS:])
    table.caption = Text(f"{hidden} more running, {len(status.queued)} queued" if hidden else f"{len(status.queued)} queued")
    return table


def _open(launches: list[OpenLaunch]) -> Table:
    table = _table("open until decided", "launch", "commit", "n", "so far", "author")
    for launch in launches:
        table.add_row(launch.id, launch.commit, str(launch.n), launch.verdict, _line(launch.author))
    return table


def _leaderboard(leaders: list[Leader], status: StatusAnswer) -> Table:
    champion = status.champion
    table = _table("leaderboard", "commit", _metric_name(status), "likely gain", "better", "")
    for leader in leaders:
        gain = f"{leader.gain:+.4f}" if leader.gain is not None else ""
        chance = f"{leader.p_better:.0%}" if leader.p_better is not None else ""
        table.add_row(leader.commit[:12], _metric(leader), gain, chance, "champion" if leader.commit == champion.commit else leader.mark)
    return table


def _recent(lines: list[ExperimentLine], metric_name: str) -> Table:
    table = _table("latest", "experiment", "commit", "state", metric_name, "author", "hypothesis or failure")
    for line in lines:
        metric = (
            f"{line.val_bpb:.4f}" if line.val_bpb is not None else "-" if line.reported_bpb is None else f"{line.reported_bpb:.4f} reported"
        )
        table.add_row(line.id, line.commit[:12], _state(line), metric, _line(line.author), _line(line.failure or line.hypothesis))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
        expand=columns[-1].startswith("hypothesis"),  # the last column then takes what the others leave
    )
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis", ratio=1 if column.startswith("hypothesis") else None)
    return table


def _line(text: str, style: str = "") -> Text:
    return Text(" ".join(clean(text).split()), style=style)


def _state(line: ExperimentLine) -> Text:
    return Text(line.state, style=_COLOURS.get(line.state, "red"))


def _metric_name(status: StatusAnswer) -> str:
    """Return the metric's name, out of "val acc, reported; higher is better"."""
    return status.metric.rpartition("; ")[0].rpartition(", ")[0] or status.metric


def _metric(summary: Summary) -> str:
    if summary.mean is None:
        return "not measured yet"
    return (
        f"{summary.mean:.4f}"
        + (f" ± {summary.sd:.4f}" if summary.sd is not None else "")
        + f" (n={summary.n}{', reported' if summary.reported else ''})"
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 360 else f"{seconds:.0f} s"
