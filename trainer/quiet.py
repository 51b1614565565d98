"""Keeps a machine quiet while a model server may know held-out text: no other run's code runs there (fixed).

Two processes on one machine can always talk by timing, as each notices how busy cores, caches and memory are. Trainings never read
held-out text, but a model server does, and could tell it to a training beside it. A stopped process hears nothing. So a run holds the
floor together with others while it trains, and alone while its model is scored. Who trains when another asks for the floor stops its
code, lets go of the floor, and goes on when the other is done. A stop costs no budget.

What is not covered: how long a stop takes (score.py says what bounds it), GPUs, whose work goes on while a process is stopped, and runs
whose launchers have another user, another `TMPDIR` or another container.
"""

import os
import stat
import tempfile
from pathlib import Path

from autoresearch_mcp.trainer import files


class Floor:
    """One run's share of the machine. Two locks make it: `next` is held by who waits for the floor alone, and `floor` by who has it.

    Raises:
        OSError: the locks can't be made, or another user made them.
    """

    def __init__(self) -> None:
        directory = Path(tempfile.gettempdir(), f"autoresearch-{os.getuid()}")
        directory.mkdir(mode=0o700, exist_ok=True)
        owned = directory.lstat()
        if not stat.S_ISDIR(owned.st_mode) or owned.st_uid != os.getuid():
            raise PermissionError(f"{directory} belongs to somebody else: remove it, or set TMPDIR.")
        self._next, self._floor = (os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for name in ("next", "floor"))

    def is_wanted(self) -> bool:
        """Return whether another run waits for the floor alone, or has it so."""
        if not files.try_lock(self._next, shared=True):
            return True
        files.unlock(self._next)
        return False

    def try_share(self) -> bool:
        """Take the floor together with others, unless a run has it alone or waits for that. Return whether this run has it."""
        return not self.is_wanted() and files.try_lock(self._floor, shared=True)

    def try_take(self) -> bool:
        """Take the floor alone. Until this run has it or leaves, no other begins to share it. Return whether this run has it."""
        return files.try_lock(self._next) and files.try_lock(self._floor)

    def leave(self) -> None:
        """Let go of the floor."""
        files.unlock(self._floor)
        files.unlock(self._next)
