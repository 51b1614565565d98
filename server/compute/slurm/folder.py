"""One run's folder: what of it is in the lab, and how it is reached where the nodes see it."""

import asyncio
import contextlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath

from autoresearch_mcp.server.compute.base import ComputeError, Job, Observation, read_end, write_files
from autoresearch_mcp.server.compute.line.mirror import HELD
from autoresearch_mcp.server.compute.line.there import last_words
from autoresearch_mcp.server.compute.slurm.script import SCRIPT, MakeScript
from autoresearch_mcp.server.compute.slurm.there import CLAIM, FORBIDDEN, OUTPUT, forbid_job
from autoresearch_mcp.server.untrusted import one_line
from autoresearch_mcp.trainer import protocol

RECORD = "slurm.json"  # in the lab: {"login"} that has it, if one does, and {"id"} of the job or {"refused"} with the reason
_GROWING = (protocol.LOG, protocol.CURVE)
_REPLACED = (protocol.PROGRESS, protocol.HIDDEN, OUTPUT, CLAIM)


class NotWritten(Exception):
    """A run's files can't be written where the nodes see them. The text says why."""


class RunFolder(ABC):
    """The files of one job.

    Args:
        job: The job, whose own folder is in the lab.
        read: The folder in which this machine reads what the job wrote.
        login: The login node that has it; empty where this machine is one of the cluster's.
    """

    def __init__(self, job: Job, read: Path, login: str = "") -> None:
        self.job, self._read, self._own, self._login_name = job, read, job.directory, login

    @abstractmethod
    async def write(self) -> None:
        """Write the job's files, as far as this machine can.

        Raises:
            OSError: The disk is full, or a path can't be written.
        """

    @abstractmethod
    async def deliver(self) -> PurePath:
        """See to it that the nodes see the files, and return the folder as they see it.

        Raises:
            SlurmAway: It can't be known whether they do.
            NotWritten: They never will.
        """

    @abstractmethod
    async def forbid(self) -> bool:
        """Forbid the job for good. Returns whether it is forbidden: false where it has begun.

        Raises:
            SlurmAway: It can't be known.
        """

    @abstractmethod
    async def ask_to_end(self) -> bool:
        """Mark the run as cancelled, and forbid it unless it has begun. Returns whether it has.

        Raises:
            SlurmAway: The wish may not have arrived.
        """

    @abstractmethod
    async def end(self) -> Observation | None:
        """Return how a job ended whose result is in the lab, and remove its files there. None where there is none yet.

        Raises:
            ComputeError: Another login node has the job.
        """

    @property
    def record(self) -> Mapping[str, str]:
        """What is known of the job in Slurm; see `RECORD`."""
        return protocol.read_json(self._own / RECORD) or {}

    def keep(self, record: Mapping[str, str]) -> None:
        """Write down what is known of the job in Slurm."""
        protocol.write_json(self._own / RECORD, {**({"login": self._login_name} if self._login_name else {}), **record})

    def check_place(self) -> None:
        """See to it that a job is looked for where it is.

        Raises:
            ComputeError: Another login node has it, or a machine of the cluster.
        """
        if (record := self.record) and (place := record.get("login", "")) != self._login_name:
            where = f"through the login node {place}" if place else "by Slurm's commands on this machine"
            key = f'login = "{place}"' if place else "no login"
            raise ComputeError(
                f"The run {self.job.id}/{self.job.attempt} was handed in {where}. Set {key} in [compute] of lab.toml until it has ended."
            )

    @property
    def claim(self) -> str:
        """Who made the run's claim: the job's number, `FORBIDDEN`, or nobody yet."""
        with contextlib.suppress(OSError):
            return (self._read / CLAIM).read_text(encoding="ascii").strip() or "0"
        return FORBIDDEN if (self._own / protocol.ABANDONED).exists() else ""

    @property
    def cancelled(self) -> bool:
        """Whether this lab asked for its end."""
        return (self._read / protocol.CANCEL).exists()

    @property
    def supervised(self) -> bool:
        """Whether the launcher had begun."""
        return (self._read / protocol.PROGRESS).exists()

    def output(self) -> str:
        """Return the last lines of what the job's script printed, as one line."""
        return one_line(last_words(self._read / OUTPUT), 400)

    def ended(self) -> Observation | None:
        """Return how a job ended whose result is in the lab, with the seconds between its claim and its result."""
        if (end := read_end(self._own)) is None:
            return None
        held = (protocol.read_json(self._own / HELD) or {}).get("held_s")
        with contextlib.suppress(OSError):  # by one clock, that of the file system
            took = (self._own / protocol.RESULT).stat().st_mtime - (self._own / CLAIM).stat().st_mtime
            end = replace(end, device_s=max(0.0, took) if held is None else held)
        return end

    def abandon(self) -> None:
        """Write down in the lab that the job must not begin."""
        self._own.mkdir(parents=True, exist_ok=True)
        (self._own / protocol.ABANDONED).touch()


class SharedFolder(RunFolder):
    """A run's folder on a file system that this machine shares with the nodes.

    Args:
        job: The job.
        shared: Where the nodes find it; the same folder where they see the lab.
        make_script: Makes the job's script for that folder.
    """

    def __init__(self, job: Job, shared: Path, make_script: MakeScript) -> None:
        super().__init__(job, shared)
        self._shared, self._script = shared, make_script

    async def write(self) -> None:
        """Write the job's files and its script."""
        await asyncio.to_thread(self._write)

    async def deliver(self) -> PurePath:
        """Return the folder, which is written."""
        return self._shared

    async def forbid(self) -> bool:
        """Make the job's claim."""
        return await asyncio.to_thread(self._forbid)

    async def ask_to_end(self) -> bool:
        """Mark the run, and make its claim."""
        return await asyncio.to_thread(self._ask_to_end)

    async def end(self) -> Observation | None:
        """Copy what has grown, and return how the job ended."""
        self.check_place()
        return await asyncio.to_thread(self._end)

    def _write(self) -> None:
        for folder in (self._shared, self._own):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_files(replace(self.job, directory=self._shared))
        if self._shared != self._own:
            protocol.write_json(self._own / protocol.SPEC, self.job.spec)
        (self._shared / SCRIPT).write_text(self._script(self._shared), encoding="utf-8")

    def _forbid(self) -> bool:
        if not forbid_job(self._shared):
            return False
        self.abandon()
        return True

    def _ask_to_end(self) -> bool:
        if self._shared.is_dir():
            (self._shared / protocol.CANCEL).touch()
        return not self._forbid()

    def _end(self) -> Observation | None:
        self._pull()
        if (end := self.ended()) is not None and self._shared != self._own:
            shutil.rmtree(self._shared, ignore_errors=True)
        return end

    def _pull(self) -> None:
        """Copy what has grown there into the lab, the result last."""
        if self._shared == self._own or not self._shared.is_dir():
            return
        self._own.mkdir(parents=True, exist_ok=True)
        ended = (self._shared / protocol.RESULT).exists()  # before the rest is copied: then that is whole
        for name in _GROWING:
            with (
                contextlib.suppress(FileNotFoundError),
                (self._shared / name).open("rb") as source,
                (self._own / name).open("ab") as target,
            ):
                source.seek(target.tell())
                shutil.copyfileobj(source, target)
        for name in (*_REPLACED, *([protocol.RESULT] if ended else [])):
            _copy(self._shared / name, self._own / name)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its time and mode where it is there and changed, in one step."""
    with contextlib.suppress(FileNotFoundError):
        if target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns:
            return
        half = target.with_name(f"{target.name}.part")
        shutil.copy2(source, half)
        half.replace(target)
