"""Measures and kills the processes of one run together: everything that descends from its supervisor (fixed).

Descent survives `setsid` and daemonising, because the supervisor adopts orphans (Linux). Where it can't (older gVisor), orphans are
known by the session of a child, which they can't leave. What those used is not counted once they are dead.

What is not covered where there is no seccomp:

- the CPU time of a helper that lives and dies between two looks while its parent ignores SIGCHLD;
- a fork bomb that leaves its process group faster than it is killed;
- on macOS, helpers that daemonise.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Process:
    """One process, as the system lists it."""

    pid: int
    parent: int
    group: int
    session: int
    stopped: bool  # or dead
    threads: int
    cpu_s: float  # its own, and that of the children it waited for
    resident_mb: float


@dataclass(frozen=True)
class Usage:
    """Sums what a family takes: `cpu_s` of all members so far, dead or alive; the rest of the living."""

    cpu_s: float
    resident_mb: float
    threads: int
    descriptors: int
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Exit:
    """How a process ended: `code` as in subprocess, negative for a signal."""

    code: int
    peak_mb: float


class Family:
    """The descendants of this process. Make one before the first fork."""

    def __init__(self) -> None:
        self._adopts = _LINUX and _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._sessions = set[int]()
        self.exits: dict[int, Exit] = {}
        self._buried_cpu_s = 0.0
        self._keepers = set[int]()

    def overlook(self, keeper: int) -> None:
        """Leave out of the sums what a keeper of a world and its child hold, which is this process's memory: see world.py."""
        self._keepers.add(keeper)

    def reap(self) -> None:
        """Collect the processes that ended, adopted orphans too."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._buried_cpu_s += usage.ru_utime + usage.ru_stime
            peak = usage.ru_maxrss / (1024 if _LINUX else 1024**2)
            self.exits[pid] = Exit(os.waitstatus_to_exitcode(status), peak)

    def usage(self) -> Usage:
        """Measure what the family takes."""
        self.reap()
        living = self._living()
        counted = [p for p in living if not self._keepers & {p.pid, p.parent}]
        return Usage(
            cpu_s=self._buried_cpu_s + sum(p.cpu_s for p in living),
            resident_mb=sum(p.resident_mb for p in counted),
            threads=sum(p.threads for p in counted),
            descriptors=sum(_descriptors(p.pid) for p in counted),
            pids=tuple(p.pid for p in living),
        )

    def kill(self) -> None:
        """Kill every member and wait until none is left. A group dies at once, so forking in it gains nothing."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            living = self._living()
            _signal(living, signal.SIGKILL)
            self.reap()
            if not living:
                return
            time.sleep(0.002)

    def stop(self) -> None:
        """Stop every member, and wait until all have stopped. One that waits for the disk may take longer than a second; it computes nothing."""
        deadline = time.monotonic() + 1
        while (moving := [process for process in self._living() if not process.stopped]) and time.monotonic() < deadline:
            _signal(moving, signal.SIGSTOP)
            time.sleep(0.001)

    def resume(self) -> None:
        """Let every member go on."""
        _signal(self._living(), signal.SIGCONT)

    def _living(self) -> list[Process]:
        all_processes = list(_all_from_proc() if _LINUX else _all_from_ps())
        members = _descendants(os.getpid(), all_processes)
        if self._adopts or not _LINUX:
            return members
        self._sessions |= {process.session for process in members} - {os.getsid(0)}
        orphans = {process.pid for process in all_processes if process.session in self._sessions}
        return [process for process in all_processes if process in members or process.pid in orphans]


def _signal(processes: list[Process], number: int) -> None:
    """Send a signal to processes and to their groups, but never to our own group."""
    for group in {process.group for process in processes} - {os.getpgrp()}:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, is gone. Linux only; elsewhere it lives on."""
    if _LINUX and (not _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) or os.getppid() != parent):
        os._exit(1)


def _prctl(option: int, value: int) -> bool:
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)) == 0


def _descendants(root: int, processes: list[Process]) -> list[Process]:
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process)
    members, stack = list[Process](), [root]
    while stack:
        for process in children.get(stack.pop(), []):
            members.append(process)
            stack.append(process.pid)
    return members


def _all_from_proc() -> Iterator[Process]:
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE") / 2**20
    for name in os.listdir("/proc"):  # noqa: PTH208 - a hundred Path objects a look would cost more than the look
        if not name.isdigit():
            continue
        try:
            stat = Path("/proc", name, "stat").read_bytes()
        except OSError:
            continue
        fields = stat.rpartition(b")")[2].split()  # from the third field of proc_pid_stat(5) on
        yield Process(
            int(name),
            int(fields[1]),
            int(fields[2]),
            int(fields[3]),
            fields[0] in (b"T", b"t", b"Z", b"X"),
            int(fields[17]),
            sum(map(int, fields[11:15])) / tick,
            int(fields[21]) * page,
        )


def _descriptors(pid: int) -> int:
    """Count the open files, sockets and pipes of a process: 0 where there is no /proc."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    except OSError:
        return 0


def _all_from_ps() -> Iterator[Process]:
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid=,pgid=,state=,rss=,time="], stdout=subprocess.PIPE, text=True) as ps:
        listing, _ = ps.communicate()
    for line in listing.splitlines():
        pid, parent, group, state, resident, clock = line.split()
        if int(pid) == ps.pid:
            continue  # no member, though a child of ours
        days, _, rest = clock.rpartition("-")
        seconds = 0.0
        for part in rest.split(":"):
            seconds = seconds * 60 + float(part)
        yield Process(int(pid), int(parent), int(group), 0, state[0] in "TZ", 1, seconds + 86400 * int(days or 0), int(resident) / 1024)
