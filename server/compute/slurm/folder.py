"""One run's folder on the file system that this machine shares with the nodes, and its copy in the lab."""

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from autoresearch_mcp.server.compute.base import Job, Observation, read_end, write_files
from autoresearch_mcp.server.compute.slurm.script import CLAIM, OUTPUT, SCRIPT
from autoresearch_mcp.server.untrusted import one_line
from autoresearch_mcp.trainer import protocol

FORBIDDEN = "forbidden"  # in the claim of a run that a runner gave up
RECORD = "slurm.json"  # in the lab: {"id"} of the job, or {"refused"} with the reason
_GROWING = (protocol.LOG, protocol.CURVE)
_REPLACED = (protocol.PROGRESS, protocol.HIDDEN, OUTPUT, CLAIM)


class RunFolder:
    """The files of one job. Every method may block on the file system.

    Args:
        job: The job, whose own folder is in the lab.
        shared: Where the nodes find it; the same folder where they see the lab.
    """

    def __init__(self, job: Job, shared: Path) -> None:
        self._job, self.shared, self._own = job, shared, job.directory

    def write(self, script: str) -> None:
        """Write the job's files and its script.

        Raises:
            OSError: The disk is full, or a path can't be written.
        """
        for folder in (self.shared, self._own):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_files(replace(self._job, directory=self.shared))
        if self.shared != self._own:
            protocol.write_json(self._own / protocol.SPEC, self._job.spec)
        (self.shared / SCRIPT).write_text(script, encoding="utf-8")

    def pull(self) -> None:
        """Copy what has grown there into the lab, the result last."""
        if self.shared == self._own or not self.shared.is_dir():
            return
        self._own.mkdir(parents=True, exist_ok=True)
        ended = (self.shared / protocol.RESULT).exists()  # before the rest is copied: then that is whole
        for name in _GROWING:
            with contextlib.suppress(FileNotFoundError), (self.shared / name).open("rb") as source, (self._own / name).open("ab") as target:
                source.seek(target.tell())
                shutil.copyfileobj(source, target)
        for name in (*_REPLACED, *([protocol.RESULT] if ended else [])):
            _copy(self.shared / name, self._own / name)

    def end(self) -> Observation | None:
        """Return how a job ended that left a result, with the seconds between its claim and its result. None where there is none yet."""
        if (end := read_end(self._own)) is None:
            return None
        with contextlib.suppress(OSError):  # by one clock, that of the file system
            took = (self._own / protocol.RESULT).stat().st_mtime - (self._own / CLAIM).stat().st_mtime
            end = replace(end, device_s=max(0.0, took))
        if self.shared != self._own:
            shutil.rmtree(self.shared, ignore_errors=True)
        return end

    @property
    def record(self) -> Mapping[str, str]:
        """What is known of the job in Slurm; see `RECORD`."""
        return protocol.read_json(self._own / RECORD) or {}

    def keep(self, record: Mapping[str, str]) -> None:
        """Write down what is known of the job in Slurm."""
        protocol.write_json(self._own / RECORD, dict(record))

    @property
    def claim(self) -> str:
        """Who made the run's claim: the job's number, `FORBIDDEN`, or nobody yet."""
        try:
            return (self.shared / CLAIM).read_text(encoding="ascii").strip() or "0"
        except OSError:
            return ""

    def forbid(self) -> bool:
        """Forbid the job for good. Returns whether it is forbidden: false where it has begun."""
        for folder in (self._own, self.shared):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with (self.shared / CLAIM).open("x", encoding="ascii") as file:
                file.write(FORBIDDEN)
        except FileExistsError:
            if self.claim != FORBIDDEN:
                return False
        (self._own / protocol.ABANDONED).touch()
        return True

    def ask_to_end(self) -> bool:
        """Mark the run as cancelled, and forbid it unless it has begun. Returns whether it has."""
        if self.shared.is_dir():
            (self.shared / protocol.CANCEL).touch()
        return not self.forbid()

    @property
    def cancelled(self) -> bool:
        """Whether this lab asked for its end."""
        return (self.shared / protocol.CANCEL).exists()

    @property
    def supervised(self) -> bool:
        """Whether the launcher had begun."""
        return (self.shared / protocol.PROGRESS).exists()

    def output(self) -> str:
        """Return the last lines of what the job's script printed, as one line."""
        try:
            text = (self.shared / OUTPUT).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return one_line(" / ".join(text.strip().splitlines()[-3:]), 400)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its time and mode where it is there and changed, in one step."""
    with contextlib.suppress(FileNotFoundError):
        if target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns:
            return
        half = target.with_name(f"{target.name}.part")
        shutil.copy2(source, half)
        half.replace(target)
