"""Keeps a training's threads on cores of its own (fixed). Linux only; elsewhere, and where too few cores are free, they go where they like.

A run claims as many physical cores as it has threads, by locks that die with its supervisor, and gives them back when training ends.
Confined code can't widen what it got: its own calls for that are answered as done, and nothing is (see sandbox/seccomp.py).

What is not covered: trainings of another user or in another container, and what else runs on the machine.
"""

import contextlib
import os
import stat
import sys
from pathlib import Path

from autoresearch_mcp.trainer import files

FOLDER = Path("/tmp", f"autoresearch-cores-{os.getuid()}")  # noqa: S108 - checked for whose it is
_SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


class Cores:
    """The cores of one training.

    Args:
        threads: how many it has; 0 where it may go where it likes.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._locks: list[int] = []

    def claim(self) -> frozenset[int]:
        """Claim a physical core for each thread.

        Returns:
            The logical cores to stay on. Empty where too few are free, or the system has no such means: then nothing is claimed.
        """
        if sys.platform != "linux":
            return frozenset()
        own: set[int] = set()
        with contextlib.suppress(OSError):
            folder = _folder()
            for number, logical in sorted(_physical().items()):
                if len(self._locks) == self._threads:
                    break
                lock = os.open(folder / f"core-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if files.try_lock(lock):
                    self._locks.append(lock)
                    own |= logical
                else:
                    os.close(lock)
        if len(self._locks) == self._threads:
            return frozenset(own)
        self.release()
        return frozenset()

    def release(self) -> None:
        """Give the cores back. No process of the training may live any more."""
        for lock in self._locks:
            os.close(lock)
        self._locks = []


def _folder() -> Path:
    """Return the folder of the locks. Cores are the machine's, so it is the same for every `TMPDIR`.

    Raises:
        OSError: it can't be made, or belongs to somebody else.
    """
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    owned = FOLDER.lstat()
    if not stat.S_ISDIR(owned.st_mode) or owned.st_uid != os.getuid():
        raise PermissionError(f"{FOLDER} belongs to somebody else")
    return FOLDER


def _physical() -> dict[int, set[int]]:
    """Return the logical cores of each physical one that this process may use, by the first of them."""
    cores: dict[int, set[int]] = {}
    usable = os.sched_getaffinity(0)
    for cpu in sorted(usable):
        siblings = {cpu}
        with contextlib.suppress(OSError, ValueError):
            for part in Path(_SIBLINGS.format(cpu)).read_text(encoding="ascii").split(","):
                first, _, last = part.strip().partition("-")
                siblings |= set(range(int(first), int(last or first) + 1))
        cores.setdefault(min(siblings & usable), set()).add(cpu)
    return cores
