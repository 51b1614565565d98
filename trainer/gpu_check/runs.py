"""Starts runs through the real launcher, waits for them, and leaves none of them running, whatever ends the check.

A launcher outlives who started it. So each run directory tells by its lock whether its launcher lives, and a check that starts after
one that was killed ends what that one left.
"""

import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import files, prepare, protocol
from autoresearch_mcp.trainer.gpu_check.machine import CheckError
from autoresearch_mcp.trainer.prepare import Profile

TICK_S = 0.05
CANCEL_S = 15.0  # a launcher has so long to end a run that was cancelled
_LAUNCHER = (sys.executable, "-m", "autoresearch_mcp.trainer.gpu_check.launcher")


class Run:
    """One run of the launcher.

    Attributes:
        directory: its run directory.
        pid: of its supervisor.
    """

    def __init__(self, directory: Path, pid: int, process: subprocess.Popen[bytes] | None, deadline: float) -> None:
        self.directory, self.pid, self._process, self._deadline = directory, pid, process, deadline

    @property
    def alive(self) -> bool:
        """Whether its supervisor lives."""
        if self._process is not None:
            return self._process.poll() is None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @property
    def phase(self) -> str:
        """Where it is: starting, running, scoring; empty before."""
        return str((protocol.read_json(self.directory / protocol.PROGRESS) or {}).get("phase", ""))

    @property
    def log(self) -> str:
        """What its code printed."""
        try:
            return (self.directory / protocol.LOG).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    @property
    def curve(self) -> list[dict[str, float]]:
        """What its code reported, a step each."""
        try:
            lines = (self.directory / protocol.CURVE).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def wait(self) -> dict[str, Any]:
        """Wait for its end.

        Returns:
            Its result.

        Raises:
            CheckError: it took too long and was cancelled, or left no result.
        """
        while self.alive:
            if time.monotonic() > self._deadline:
                cancel(self.directory)
                raise CheckError(f"the run {self.directory.name} took too long and was cancelled: it was {self.phase or 'not begun'}.")
            time.sleep(TICK_S)
        result = protocol.read_json(self.directory / protocol.RESULT)
        if result is None:
            raise CheckError(f"the run {self.directory.name} left no result: its launcher died.")
        return result

    def finish(self) -> dict[str, Any]:
        """Wait for its end, as `wait`, and refuse a run that didn't finish.

        Raises:
            CheckError: the run failed; the text holds why.
        """
        result = self.wait()
        if result["state"] not in ("finished", protocol.SUBMITTED):
            failure = result.get("failure") or {}
            raise CheckError(f"the run {self.directory.name} {result['state']}: {failure.get('kind', '')}: {failure.get('message', '')}")
        return result

    def reach(self, phase: str) -> None:
        """Wait until it is in this phase.

        Raises:
            CheckError: it ended before, or didn't get there in time.
        """
        while self.phase != phase:
            if not self.alive:
                raise CheckError(f"the run {self.directory.name} ended before it was {phase}.")
            if time.monotonic() > self._deadline:
                cancel(self.directory)
                raise CheckError(f"the run {self.directory.name} took too long to be {phase} and was cancelled.")
            time.sleep(TICK_S / 5)

    def members(self) -> set[int]:
        """Return the processes that work in its scratch directory, which only trainer and model servers do, and its supervisor's children."""
        pids = set[int]()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
                if parent == self.pid or (entry / "cwd").readlink().is_relative_to(self.directory):
                    pids.add(int(entry.name))
        return pids


class Launches:
    """Starts runs of one profile on one device.

    Attributes:
        deadline: when the part ends that starts them, by `time.monotonic`. A run that goes on longer is cancelled.

    Args:
        folder: where run directories are made. What an earlier check left there is ended and removed.
        profile: what to train.
        data: its prepared data.
        device: a torch device type.
    """

    def __init__(self, folder: Path, profile: Profile, data: Path, device: str) -> None:
        end_leftovers(folder)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._profile, self._data, self._device = folder, profile, data, device
        self._log = (folder / "launchers.log").open("wb")
        self.deadline = math.inf
        self._warm: dict[str, subprocess.Popen[str]] = {}  # by stage

    def start(
        self,
        name: str,
        code: str,
        budget_s: float,
        seed: int = 0,
        attention: str = "sdpa",
        stage: str = "all",
    ) -> Run:
        """Start a run of this train.py.

        Args:
            name: what its directory is called, before some random letters.
            code: of train.py.
            budget_s: of the profile's clock.
            seed: of the lab.
            attention: see `trainer.device.attention_backend`.
            stage: see `trainer.supervisor.Stage`.

        Raises:
            CheckError: no launcher can be started.
        """
        directory = self._folder / f"{name}-{secrets.token_hex(3)}"
        (directory / protocol.CODE).mkdir(parents=True)
        (directory / protocol.CODE / "train.py").write_text(code, encoding="utf-8")
        spec = protocol.Spec(
            experiment=name,
            seed=seed,
            profile=self._profile.name,
            budget_s=budget_s,
            threads=1 if self._device == "cpu" else min(8, os.cpu_count() or 1),
            data=str(self._data),
            device=self._device,
            attention=attention,
        )
        protocol.write_json(directory / protocol.SPEC, spec)
        return self.go_on(directory, stage, budget_s)

    def go_on(self, directory: Path, stage: str, budget_s: float) -> Run:
        """Start a launcher on a run directory that is there: a new one, or one that waits for its score.

        Raises:
            CheckError: it can't be started.
        """
        deadline = min(self.deadline, time.monotonic() + prepare.max_wall_s(self._profile.name, budget_s) + 20)
        if stage == "score":  # as on another machine
            process = subprocess.Popen([*_LAUNCHER, str(directory), "--stage", stage], stdin=subprocess.DEVNULL, stderr=self._log)
            return Run(directory, process.pid, process, deadline)
        warm = self._parent(stage)
        assert warm.stdin is not None and warm.stdout is not None
        try:
            warm.stdin.write(f"{directory}\n")
            warm.stdin.flush()
            answer = json.loads(warm.stdout.readline() or "{}")
        except OSError:
            answer = {}
        if "pid" not in answer:
            raise CheckError(f"the launcher could not start a run. {answer.get('error', f'{self._folder}/launchers.log may say why.')}")
        return Run(directory, answer["pid"], None, deadline)

    def _parent(self, stage: str) -> "subprocess.Popen[str]":
        """Return the warm parent of a stage, which imports torch once for all runs."""
        if stage not in self._warm or self._warm[stage].poll() is not None:
            command = [*_LAUNCHER, "--warm", "--stage", stage]
            self._warm[stage] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, encoding="utf-8"
            )
        return self._warm[stage]

    def close(self) -> None:
        """End the warm parents and every run that still lives."""
        for warm in self._warm.values():
            assert warm.stdin is not None and warm.stdout is not None
            with contextlib.suppress(OSError):
                warm.stdin.close()
            warm.stdout.close()
            try:
                warm.wait(timeout=10)
            except subprocess.TimeoutExpired:
                warm.kill()
                warm.wait()
        end_leftovers(self._folder)
        self._log.close()


def end_leftovers(folder: Path) -> int:
    """Cancel every run in a folder whose launcher lives.

    Returns:
        How many there were.
    """
    living = [path.parent for path in folder.glob(f"*/{protocol.LOCK}") if holder(path) is not None] if folder.is_dir() else []
    for directory in living:
        cancel(directory)
    return len(living)


def cancel(directory: Path) -> None:
    """Cancel a run, and wait until its launcher is gone. One that doesn't go is killed; the kernel then kills its children."""
    lock = directory / protocol.LOCK
    if (pid := holder(lock)) is None:
        return
    with contextlib.suppress(OSError):  # a full disk: the signal alone will do
        (directory / protocol.CANCEL).touch()
    for number, patience_s in ((signal.SIGTERM, CANCEL_S), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if holder(lock) is None:
                return
            time.sleep(TICK_S)


def holder(lock: Path) -> int | None:
    """Return the process id of the launcher that holds a run's lock; None if none does."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if files.try_process_lock(descriptor):
            return None
        written = os.read(descriptor, 32).decode("ascii", "replace").strip()
        return int(written) if written.isdecimal() else None
    finally:
        os.close(descriptor)
