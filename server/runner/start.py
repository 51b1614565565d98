"""Starts the lab's runner on demand. One that dies before it gets to work is started again after a pause that grows with each failure.

A note in the state folder says how often the runner was started since it last got to work. The runner clears it after
its first round and flush.
"""

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.retry import pause_s
from autoresearch_mcp.server.runner.health import HealthFile
from autoresearch_mcp.server.runner.lock import command_line, runner_alive
from autoresearch_mcp.server.runner.log import rotate
from autoresearch_mcp.server.untrusted import file_names_only
from autoresearch_mcp.trainer import files

START_RETRY_S = (2.0, 60.0)  # first and longest pause after a runner that died before it got to work
START_WITHIN_S = 60.0  # for which a runner that was started, and lives, is given time to get to work
WORDS = 3  # lines of a dead runner's log that get_status shows

# A small interpreter forks and leaves, so that the runner is nobody's child: no zombie here, no signal to it from there.
_DETACH = """\
import os, sys
child = os.fork()
if child == 0:
    os.setsid()
    os.dup2(2, 1)
    os.execv(sys.argv[1], sys.argv[1:])
print(child)
"""
_log = logging.getLogger(__name__)


@dataclass
class _Starts:
    """The note: starts since a runner last got to work.

    Attributes:
        count: how many.
        at: when the last one was; seconds since the epoch.
        pid: the process that it started.
        log_size: where its words begin in the runner's log, in bytes.
    """

    count: int = 0
    at: float = 0.0
    pid: int = 0
    log_size: int = 0

    def under_way(self) -> bool:
        """Return whether the process that was started last may still get to work."""
        return 0 <= time.time() - self.at < START_WITHIN_S and " runner " in command_line(self.pid)

    def pause_s(self) -> float:
        """Return the seconds until the next start."""
        return self.at + pause_s(START_RETRY_S, self.count) - time.time() if self.count else 0.0


def ensure_runner(root: Path, state: Path) -> bool:
    """Start the lab's runner if there is none. Call it after the work was recorded: the runner reads the queue once more before it leaves.

    A start that fails is logged and no error: the work stays recorded, and a later call tries again.

    Args:
        root: the lab's directory.
        state: its state folder.

    Returns:
        Whether a runner is there or on its way.
    """
    if runner_alive(state):
        return True
    try:
        with StatePaths(state).runner_starts.open("a+", encoding="utf-8") as note:
            if not files.try_lock(note):
                return True  # another process starts it now
            starts = _read(note)
            if starts.under_way():
                return True
            if starts.pause_s() > 0:
                return False
            rotate(StatePaths(state).runner_log)
            starts = _Starts(starts.count + 1, time.time(), log_size=_size(StatePaths(state).runner_log))
            HealthFile(state)  # what an earlier runner wrote there is over
            starts.pid = _start(root, StatePaths(state).runner_log)
            _write(note, starts)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        _log.warning("the runner did not start: %s", error)
        return False
    return True


def got_to_work(state: Path) -> None:
    """Forget the starts: a runner works, or somebody stopped it."""
    try:
        os.truncate(StatePaths(state).runner_starts, 0)
    except OSError:
        return


def failed_starts(state: Path) -> list[str]:
    """Return why no runner gets to work, in sentences; none if nothing is wrong."""
    path = StatePaths(state).runner_starts
    try:
        if not path.stat().st_size or runner_alive(state):
            return []
        with path.open(encoding="utf-8") as note:
            starts = _read(note)
    except OSError:
        return []
    failed = starts.count - starts.under_way()
    if failed < 1:
        return []
    pause_s = starts.pause_s()
    again = f"It is started again in {pause_s:.0f} s" if pause_s > 0 else "It is being started again"
    words = _last_words(StatePaths(state).runner_log, starts.log_size)
    return [
        f"The runner died before it got to work, {failed} time{'s' * (failed > 1)} in a row, so no experiment starts. {words} {again}; nothing that was "
        "recorded is lost. All of it is in .autoresearch/runner.log."
    ]


def _start(root: Path, log: Path) -> int:
    """Start a runner. Returns its process id."""
    with log.open("ab") as words:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _DETACH, sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "runner", str(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            check=True,
            env=os.environ | import_environment(),
        )
    return int(done.stdout)


def _last_words(log: Path, start: int) -> str:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - 4000))
            lines = file.read().decode("utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    words = " / ".join(file_names_only(line)[:300] for line in lines[-WORDS:])
    return f"Its last lines are: {words}." if words else "It left no message."


def _read(note: IO[str]) -> _Starts:
    note.seek(0)
    try:
        return _Starts(**json.loads(note.read() or "{}"))
    except (ValueError, TypeError):
        return _Starts()


def _write(note: IO[str], starts: _Starts) -> None:
    note.truncate(0)
    note.write(json.dumps(asdict(starts)))
    note.flush()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
