"""An experiment's run directory: where it is, and reading its log, loss curve and progress while it runs and afterwards."""

import json
import math
import os
from collections import deque
from pathlib import Path
from typing import Literal

from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.records import POINTS

Mode = Literal["tail", "head", "grep", "window"]
_AT_ONCE = 8 << 20  # bytes of a curve: more than the launcher lets one have
_ABSURD = 1e9  # a loss beyond this is in no digest, the launcher's included


def locate(state: Path, experiment: Experiment) -> Path:
    """Return the directory of an experiment's current attempt, under the lab's state directory."""
    return StatePaths(state).run(experiment.id, experiment.attempt)


def read_tail(path: Path, limit: int = 4000) -> str:
    """Return the end of a log, from the beginning of a line; nothing if there is no log.

    Args:
        path: the log.
        limit: bytes at most.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    text = text if size <= limit else text.split("\n", 1)[-1]
    return "\n".join(map(last_state, text.split("\n")))


def last_state(line: str) -> str:
    """Return what a terminal would show of a line that was written over, as progress bars do."""
    return next((state for state in reversed(line.split("\r")) if state.strip()), "") if "\r" in line else line


def read_log(path: Path, mode: Mode, lines: int, pattern: str | None, first_line: int | None) -> tuple[str, str]:
    """Read numbered lines of a log. Lines are cut at 500 characters.

    Args:
        path: the log.
        mode: the log's end, its beginning, the lines that match, or those from `first_line` on.
        lines: at most.
        pattern: plain text in any case, alternatives separated by `|`. A pattern language would let a pattern hang the server.
        first_line: counted from 1.

    Returns:
        The lines, and how many of the log's lines they are, in words.

    Raises:
        OSError: the log can't be read.
    """
    chosen: deque[tuple[int, str]] = deque(maxlen=lines if mode == "tail" else None)
    start = first_line or 1
    words = [word for word in (pattern or "").lower().split("|") if word]
    total = 0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for total, raw in enumerate(file, 1):
            line = last_state(raw)
            wanted = mode == "tail" or (
                len(chosen) < lines
                and (
                    mode == "head"
                    or (mode == "window" and total >= start)
                    or (mode == "grep" and any(word in line.lower() for word in words))
                )
            )
            if wanted:
                chosen.append((total, line.rstrip("\r\n")[:500]))
    text = "\n".join(f"{number:6d} {line}" for number, line in chosen)
    return text, f"{len(chosen)} of {total} lines ({mode})"


def find_line(path: Path, pattern: str, offset: int) -> tuple[str, int]:
    """Look for a line of a log that matches, from an offset on.

    Args:
        path: the log; one that isn't there yet is empty.
        pattern: as for `read_log`.
        offset: in bytes.

    Returns:
        The first such line, cut at 500 characters, or nothing; and the offset behind the last whole line that was read.
    """
    words = [word for word in pattern.lower().split("|") if word]
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(_AT_ONCE)
    except OSError:
        return "", offset
    whole = data[: data.rfind(b"\n") + 1]
    for raw in whole.split(b"\n"):
        line = last_state(raw.decode("utf-8", "replace"))
        if any(word in line.lower() for word in words):
            return line.rstrip("\r")[:500], offset + len(whole)
    return "", offset + len(whole)


def read_curve(path: Path, points: int = 30) -> list[tuple[float, float]]:
    """Return a digest of a loss curve.

    Args:
        path: the `curve.jsonl` of a run.
        points: at most.

    Returns:
        Evenly spaced pairs of the share of the budget and the training loss; none if there is no curve yet.
    """
    rows: list[tuple[float, float]] = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    share, loss = float(row["share"]), float(row["loss"])
                except (ValueError, KeyError, TypeError):
                    continue
                if math.isfinite(share) and math.isfinite(loss):
                    rows.append((round(share, 4), round(loss, 4)))
    except FileNotFoundError:
        return []
    step = max(1, math.ceil(len(rows) / points))
    return rows[::-1][::step][::-1]


class LiveCurve:
    """A loss curve that grows: each reading takes in what was written since the one before.

    Args:
        path: the `curve.jsonl` of a run.

    Attributes:
        share: of the budget, that the newest report names.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._sums: dict[int, tuple[float, float, int]] = {}
        self.share = 0.0

    def digest(self) -> list[tuple[float, float]]:
        """Return mean share and mean loss over equal parts of the budget, as in a result."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_AT_ONCE)
        except OSError:
            data = b""
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._add(line)
        return [(shares / count, losses / count) for _, (shares, losses, count) in sorted(self._sums.items())]

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            share, loss = float(row["share"]), float(row["loss"])
        except (ValueError, KeyError, TypeError):
            return
        if math.isfinite(share) and abs(loss) < _ABSURD:
            part = min(max(int(share * POINTS), 0), POINTS - 1)
            shares, losses, count = self._sums.get(part, (0.0, 0.0, 0))
            self._sums[part] = shares + share, losses + loss, count + 1
            self.share = min(max(self.share, share), 1.0)


def read_weights_mb(directory: Path) -> float | None:
    """Return the megabytes of the model that a running attempt trains, as its code says at its first step; None before that."""
    size = (protocol.read_json(directory / protocol.PROGRESS) or {}).get("weights_mb")
    return float(size) if isinstance(size, int | float) else None


def read_share(directory: Path, budget_s: float) -> float | None:
    """Return the share of the training budget that a running attempt has used, 0 to 1; None if it left no word yet.

    Args:
        directory: of the run.
        budget_s: the budget of a run whose directory does not name its own.
    """
    progress = protocol.read_json(directory / protocol.PROGRESS)
    if not progress:
        return None
    own = float((protocol.read_json(directory / protocol.SPEC) or {}).get("budget_s", budget_s))  # that of its launch
    return round(min(1.0, float(progress.get("used_s", 0.0)) / own), 3)
