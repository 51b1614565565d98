"""Who is the lab's runner: the process that holds a file lock, whose id is in the file."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.trainer import files

_LEAVES_S = 60.0  # that a runner may take which was asked to leave


@contextlib.contextmanager
def runner_lock(state: Path, patience_s: float = 0.0) -> Iterator[IO[str] | None]:
    """Try to become the lab's runner, and stay it until the end of the block.

    Args:
        state: the lab's state folder.
        patience_s: how long to wait for another process to let go of the lock.

    Yields:
        The lock's file if this process now is the runner, else None.

    Raises:
        OSError: there is no such lab.
    """
    deadline = time.monotonic() + patience_s
    with StatePaths(state).runner_lock.open("a+", encoding="ascii") as file:
        while not (held := _locked(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield file if held else None


def _locked(file: IO[str]) -> bool:
    if not files.try_lock(file):
        return False
    file.truncate(0)  # the process id of a runner that is gone
    return True


def runner_alive(state: Path) -> bool:
    """Return whether some process is the lab's runner. Tests with a shared lock, so two tests at once don't take each other for a runner."""
    try:
        with StatePaths(state).runner_lock.open("a+", encoding="ascii") as file:
            return not files.try_lock(file, shared=True)
    except OSError:
        return False


def stop_runner(state: Path) -> None:
    """Ask the lab's runner to leave, and wait until it has; kill one that can't. Trainings run on; the next runner adopts them.

    Only a process that has the lock's file open gets a signal: the id in the file may be that of a runner that is gone, and by now
    somebody else's.
    """
    path = StatePaths(state).runner_lock
    with contextlib.suppress(FileNotFoundError), path.open("r+", encoding="ascii") as file:
        kills_at = time.monotonic() + _LEAVES_S
        while not _locked(file):
            with contextlib.suppress(OSError, ValueError):
                runner = int(path.read_text(encoding="ascii"))
                if _has_open(runner, path):
                    os.kill(runner, signal.SIGTERM if time.monotonic() < kills_at else signal.SIGKILL)
            time.sleep(0.02)
        with contextlib.suppress(OSError):
            os.truncate(StatePaths(state).runner_starts, 0)  # being stopped is no failure to start


def command_line(pid: int) -> str:
    """Return the command line of a process, with blanks around each part; nothing if it has ended."""
    try:
        if sys.platform == "linux":
            parts = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
            return f" {' '.join(parts)} "
        shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout
        return f" {shown.strip()} "
    except OSError:
        return ""


def _has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open. Where that can't be known, return whether its command line is a runner's."""
    if sys.platform != "linux":
        return "autoresearch" in (command := command_line(pid)) and " runner " in command
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if descriptor.samefile(path):
                return True
    return False
