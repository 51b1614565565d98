"""Keeps a machine quiet while a model server may know held-out text: no other run's code runs there (fixed).

Two processes on one machine can always talk by timing, as each notices how busy cores, caches and memory are. Trainings never read
held-out text, but a model server does, and could tell it to a training beside it. A stopped process hears nothing. So a run holds the
floor together with others while it trains, and alone while its model is scored. Who trains when another asks for the floor stops its
code, lets go of the floor, and goes on when the other is done. A stop costs no budget.

What is not covered: how long a stop takes (score.py says what bounds it), GPUs, whose work goes on while a process is stopped, runs whose
launchers have another user, another `TMPDIR` or another container, and labs whose owner set `[compute] quiet = false`.
"""

import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autoresearch_mcp.trainer import files
from autoresearch_mcp.trainer.meter import Meter
from autoresearch_mcp.trainer.sandbox.processes import Family

LOOK_S = 0.1  # between two looks whether the floor is free


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


class Turn:
    """Lets one run's code run when it may.

    Args:
        takes_turns: whether it waits for others, and others for it. Not on a GPU: stopping processes wouldn't stop what runs there.
        family: the run's processes, stopped while others have the floor alone.
        meter: of the run. Its clocks stop as well.
        check: called while this waits. It may end the run.
    """

    def __init__(self, takes_turns: bool, family: Family, meter: Meter, check: Callable[[], None]) -> None:
        self._floor = Floor() if takes_turns else None
        self._family, self._meter, self._check = family, meter, check

    def begin(self) -> None:
        """Wait until no model of another run is scored on this machine. Call it before any code of the run is started."""
        while self._floor and not self._floor.try_share():
            time.sleep(LOOK_S)
            self._check()

    def yield_to_scorers(self) -> None:
        """Stop the run's code while models of other runs are scored. Call it often."""
        if self._floor is None or not self._floor.is_wanted():
            return
        self._meter.note_stop()
        self._family.stop()
        self._floor.leave()
        self.begin()
        self._family.resume()
        self._meter.note_resumption()

    def try_alone(self) -> bool:
        """Take the machine for this run alone, unless others still run. Return whether it is this run's now."""
        return self._floor is None or self._floor.try_take()

    def end(self) -> None:
        """Let others run. No code of this run may run any more."""
        if self._floor:
            self._floor.leave()
