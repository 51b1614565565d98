"""Tells how long code took by its own doing, on a machine that others may crowd (fixed).

A limit of wall time would make a crowded machine honest code's fault, and a limit of CPU time alone would let code sleep.
So the clock here counts wall seconds, less those for which the run's processes were ready to run and had no core.

Code can make itself wait, with threads that hold each other's core. Such a second takes at least half a CPU second, and those have a
limit: `Profile.score_cpu_s`, or a training's budget. `longest_s` is so long that no scoring reaches it this way: beyond it, others
crowded the machine. Code can't give its threads a lower priority, which would make them wait for anybody (sandbox/seccomp.py).

Where nothing limits CPU seconds, on a GPU, this is the wall's clock.

What is not covered: waiting for memory or the disk, and kernels that don't count waiting (gVisor, macOS), where it is that too.
"""

import contextlib
import math
import time
from collections.abc import Iterable
from pathlib import Path

from autoresearch_mcp.trainer.profiles import Profile

WALL = 4.0  # times what a scoring may take of its own time or of the CPUs' time, whichever is longer


class OwnClock:
    """Counts the seconds of processes that work one at a time, without their waiting for a core.

    Args:
        pids: the processes.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._waited_s = dict.fromkeys(pids, 0.0)

    def now(self) -> float:
        """Return the seconds since some moment. Only differences mean something."""
        for pid, before in self._waited_s.items():
            self._waited_s[pid] = max(before, waited_s(pid))  # it may be dead by now
        return self._latest()

    def left(self, deadline: float) -> float:
        """Return the seconds until a deadline of this clock, or fewer; none only once it has passed. Cheaper than `now` until then."""
        left = deadline - self._latest()
        return left if left > 0 else deadline - self.now()

    def _latest(self) -> float:
        return time.monotonic() - sum(self._waited_s.values())


def waited_s(pid: int) -> float:
    """Return how long that thread of a process waited for a core which waited longest; 0 where the kernel doesn't tell."""
    longest = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it may just have ended
            longest = max(longest, int(thread.read_text("ascii").split()[1]))
    return longest / 1e9


def excuses_waiting(profile: Profile) -> bool:
    """Return whether waiting for a core is taken off: only where a limit of CPU time keeps a model from making itself wait."""
    return math.isfinite(profile.score_cpu_s)


def longest_s(profile: Profile, threads: int) -> float:
    """Return the wall seconds after which a scoring is given up. Where waiting is taken off, the machine is to blame then."""
    return WALL * max(profile.score_s, profile.score_cpu_s * threads) if excuses_waiting(profile) else profile.score_s + 1
