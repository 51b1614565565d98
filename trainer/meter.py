"""Reads the clocks of a run and what it takes of its machine, and holds both against the profile's limits (fixed)."""

import math
import os
import time

from autoresearch_mcp.trainer import machine, patience, sandbox
from autoresearch_mcp.trainer.failures import Ended, Failure
from autoresearch_mcp.trainer.prepare import Profile
from autoresearch_mcp.trainer.protocol import Spec
from autoresearch_mcp.trainer.sandbox.processes import Exit, Family
from autoresearch_mcp.trainer.sandbox.scratch import Scratch

THREADS = 1024  # of all processes of a run together
DESCRIPTORS = sandbox.DESCRIPTORS  # of all together too: a pair of sockets holds 400 KB that are in no process's memory
LOOK_S = 0.5  # between two looks at CPU time and memory, unless the budget may end before


class Meter:
    """Counts what one run uses. Every method that looks may end the run.

    Attributes:
        phase: starting, running or scoring.
        started_at: when the budget began to run, by `time.monotonic`; None before.
        used_s: of the budget, by its own clock.
        wall_s: wall seconds since the budget began.
        cpu_s: CPU seconds since then, of all processes of the run, and those before that were not free.
        pressure: share of the wall seconds since then in which something on the machine waited for a core; None where it doesn't tell.
    """

    def __init__(self, spec: Spec, profile: Profile, family: Family, scratch: Scratch) -> None:
        self._spec, self._profile, self._family, self._scratch = spec, profile, family, scratch
        self.phase = "starting"
        self.started_at: float | None = None
        self.used_s = self.wall_s = self.cpu_s = 0.0
        self._starting_cpu_s = 0.0  # at the last look before start()
        self._cpu_at_scoring: float | None = None
        self.pressure: float | None = None
        self._crowding = machine.Crowding()  # since the budget began
        self._waited_before_s = 0.0  # for a core, when it began
        self._spawned_at = time.monotonic()
        self._cpu_at_start = self._peak_mb = 0.0
        self._look_at = 0.0
        self._building_since: float | None = None  # by the budget's clock, while a model server has not answered yet

    @property
    def since_spawn_s(self) -> float:
        """Wall seconds since the trainer was spawned."""
        return time.monotonic() - self._spawned_at

    def note_spawn(self) -> None:
        """Count the time to start from now."""
        self._spawned_at = time.monotonic()

    def start_budget(self) -> float:
        """Start the budget's clock.

        Returns:
            The CPU seconds that the run used before. Those beyond the profile's free ones count.
        """
        before = self._family.usage().cpu_s
        self._cpu_at_start = min(before, self._profile.free_cpu_s)
        self.started_at, self.phase = time.monotonic(), "running"
        self._crowding = machine.Crowding()
        self._waited_before_s = self._waited_s()
        self._look_at = 0.0
        return before

    def start_script(self) -> None:
        """Start the clock of a script without the contract: its budget runs from its first moment."""
        self.note_spawn()
        self._crowding = machine.Crowding()
        self.started_at, self.phase = self._spawned_at, "running"

    def note_stop(self) -> None:
        """Say that the run's code was stopped: until `note_resumption`, no wall clock of it runs."""
        self._crowding.pause()

    def note_resumption(self) -> None:
        """Say that it goes on."""
        pause = self._crowding.resume()
        self._spawned_at += pause
        if self.started_at is not None:
            self.started_at += pause

    def note_building(self, building: bool) -> None:
        """Say that a model server begins to build its model, or that it answered: what it does between could be training."""
        self.look()
        self._building_since = self._now() if building else None

    def look_if_due(self) -> None:
        """Look, unless the last look was a moment ago.

        Raises:
            Ended: the run is over a limit of the machine.
        """
        if time.monotonic() >= self._look_at:
            self.look()

    def look(self) -> None:
        """Read the clocks of everything that runs, and what it takes of the machine.

        Raises:
            Ended: the run is over a limit of the machine.
        """
        usage = self._family.usage()
        now = time.monotonic()
        self._look_at = now + LOOK_S
        if self.phase == "running" and self.started_at is not None:
            self.cpu_s, self.wall_s = usage.cpu_s - self._cpu_at_start, now - self.started_at
            self.used_s = self.cpu_s if self._profile.clock == "cpu" else self.wall_s
            self.pressure = self._crowding.pressure()
            left = self._spec.budget_s + self._profile.grace_s(self._spec.budget_s) - self.used_s
            self._look_at = now + min(LOOK_S, max(0.02, left / (os.cpu_count() or 1)))
        elif self.phase == "starting":
            self._starting_cpu_s = usage.cpu_s
        else:
            self._limit_scoring(usage.cpu_s)
        if self.phase != "scoring":
            self._peak_mb = max(self._peak_mb, usage.resident_mb)
        scoring = self._spec.scoring if self.phase == "scoring" else None
        limit_mb = scoring.memory_mb if scoring else self._profile.memory_mb
        if usage.resident_mb > limit_mb:
            key = " ([scorer] memory_mb in lab.toml)" if scoring else self._set_by("memory_mb")
            raise _crashed("oom", f"the run used {usage.resident_mb:.0f} MB of memory, {limit_mb} MB are allowed{key}.")
        if usage.threads > THREADS:
            raise _crashed("sandbox_violation", f"the run had {usage.threads} processes and threads, {THREADS} are allowed.")
        if usage.descriptors > DESCRIPTORS:
            message = f"the run had {usage.descriptors} files, sockets and pipes open, {DESCRIPTORS} are allowed."
            raise _crashed("sandbox_violation", message)
        if self._building_since is not None and self._now() - self._building_since > self._profile.build_s:
            limit = f"{self._profile.build_s:g} s"
            message = f"a model server took more than {limit} up to its first answer: training belongs before submit()."
            raise _crashed("invalid_model", message)
        if complaint := self._scratch.complaint(usage.pids):
            key = self._set_by("max_files" if "files" in complaint else "max_file_mb")
            raise _crashed("sandbox_violation", complaint.removesuffix(".") + f"{key}.")

    def _set_by(self, key: str) -> str:
        """Return where the owner sets a limit of code without the contract; nothing for other code, whose limits are fixed."""
        return f" ([training] {key} in lab.toml)" if self._spec.metric else ""

    def _limit_scoring(self, cpu_s: float) -> None:
        """End a run whose models take more cores than a training has. No clock counts what they do beside another's training.

        Args:
            cpu_s: of all processes of the run so far.

        Raises:
            Ended: its scoring took more CPU seconds than the profile allows.
        """
        if self._cpu_at_scoring is None:
            self._cpu_at_scoring = cpu_s
        limit = math.inf if self._spec.scoring else self._profile.score_cpu_s * self._spec.threads
        if cpu_s - self._cpu_at_scoring > limit:
            raise _crashed("invalid_model", f"scoring the model took more than {limit:g} CPU seconds.")

    def enforce_budget(self) -> None:
        """Hold what was used at the last look against the budget, or the time to start against its limit.

        Raises:
            Ended: the run is over it.
        """
        budget = self._spec.budget_s
        if self.started_at is None:
            counted = self._starting_cpu_s - self._profile.free_cpu_s
            if self._profile.clock == "cpu" and counted > budget + self._profile.grace_s(budget):
                free = f"Beyond {self._profile.free_cpu_s:g} free ones they count, and the budget of {budget:g} s is used up."
                raise _timed_out(f"{self._spec.entry} used {self._starting_cpu_s:.1f} CPU seconds before start(). {free}")
            if self.since_spawn_s > self._profile.startup_s:
                raise _timed_out(f"train.py did not call start() within {self._profile.startup_s:.0f} s.")
            return
        if self.used_s > budget + self._profile.grace_s(budget):
            missing = "ending" if self._spec.metric else "submitting"
            raise _timed_out(f"{self._spec.entry} used {self.used_s:.1f} s of a budget of {budget:g} s without {missing}.")
        if self.wall_s > budget * self._profile.wall_cap:
            used = f"{self.wall_s:.0f} s passed, and only {self.used_s:.1f} of {budget:g} CPU seconds were used"
            waited_s = self._waited_s() - self._waited_before_s
            if self.wall_s - waited_s > budget + self._profile.grace_s(budget):
                raise _timed_out(f"{used}: train.py waits.")
            raise _timed_out(f"{used}: other programs keep the machine busy. That is no fault of the code.", fault="machine")

    def peak_mb(self, trainer: Exit | None) -> float:
        """Return the most memory that the run had resident before scoring.

        Args:
            trainer: how the trainer ended, if it did. The kernel saw peaks between two looks.
        """
        return max(self._peak_mb, trainer.peak_mb if trainer else 0.0)

    def _waited_s(self) -> float:
        """Return how long that process of the run waited for a core which waited longest. Its own work can't make it wait longer than it works."""
        return max(map(patience.waited_s, self._family.usage().pids), default=0.0)

    def _now(self) -> float:
        """Read the budget's clock."""
        return self._family.usage().cpu_s if self._profile.clock == "cpu" else time.monotonic()


def _crashed(kind: str, message: str) -> Ended:
    return Ended("crashed", Failure(kind, message))


def _timed_out(message: str, fault: str = "code") -> Ended:
    return Ended("timed_out", Failure("timeout", message, fault=fault))
