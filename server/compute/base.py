"""What a compute backend does: run one job a call, tell how it is, and survive the death of the process that asked.

The runner is the only caller. A job is one attempt of one experiment, named by its id and attempt number, so that every
method can be repeated after a crash: `adopt` decides whether an earlier `submit` took effect, and forbids it for good if not.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.protocol import Result, Spec

DEVICE = "device.json"  # in a run's folder, by a backend that hands out devices: {"uuid", "name", "at", "start", "end"}


class ComputeError(Exception):
    """The backend can't do it now. The text says why and what to do. The job was not started."""


@dataclass(frozen=True)
class Job:
    """One attempt of one experiment.

    Attributes:
        id: The experiment's id.
        attempt: Counts the experiment's attempts from 1.
        directory: The local folder where log, loss curve and result are found, now or in the end.
        spec: What to run.
        files: The commit's files by path; empty for a job of an earlier process.
    """

    id: str
    attempt: int
    directory: Path
    spec: Spec
    files: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Observation:
    """How a job is.

    Attributes:
        phase: Where it is. `lost`: it ended, or never began, without a result. `refused`: the backend will never run it.
        used_s: Seconds of the training budget that are used.
        share: The same as a share of the budget, from 0 to 1.
        result: The result of a job that ended; None if what it left can't be read.
        reason: Why it was refused or lost, or why its result can't be read.
        device_s: Seconds that the job held a device, where that differs from the time since its start.
        never_started: It is `lost` because its submitter died before it began. That says nothing of the job, and another
            attempt is due.
    """

    phase: Literal["starting", "running", "scoring", "ended", "lost", "refused"]
    used_s: float = 0.0
    share: float = 0.0
    result: Result | None = None
    reason: str = ""
    device_s: float | None = None
    never_started: bool = False


class Compute(Protocol):
    """A place where jobs run.

    Any method may be called again after a crash, by another process. `submit` and `observe` never wait for a device or a provider.

    Attributes:
        poll_s: How long the runner waits between two rounds of `observe`, in seconds.
    """

    poll_s: float

    def scored_beside(self, slots: int) -> int:
        """Return how many runs can be scored while others train, at no cost to those.

        Args:
            slots: How many runs train at the same time.
        """
        ...

    async def prepare(self) -> str:
        """Make ready what all jobs share (data, tokenizer). Cancelling the call ends the work.

        Returns:
            The `data` of every job's spec.

        Raises:
            ComputeError: It can't be made ready; no job can run.
        """
        ...

    async def submit(self, job: Job) -> None:
        """Start the job, or see to it that it starts. Returns soon, even if no device is free yet.

        A job that `adopt` has forbidden is not started.

        Args:
            job: What to run, with its files.

        Raises:
            ComputeError: It was not started and won't be.
        """
        ...

    async def observe(self, job: Job) -> Observation:
        """Return how the job is. Phases only move on, and an end is for good.

        Args:
            job: A job that was submitted or adopted, also by an earlier process.
        """
        ...

    async def adopt(self, job: Job) -> bool:
        """Find out after a crash whether an earlier `submit` took effect, and forbid the job for good if it did not.

        Args:
            job: The job, which may have no files.

        Returns:
            True if the job runs or has a result, or if that can't be known now. False if it does not run and never will;
            `observe` tells whether it had begun.
        """
        ...

    async def cancel(self, job: Job) -> None:
        """Ask a job to end; `observe` tells when it has. Repeating it is harmless.

        Args:
            job: A job in any phase, ended ones included.
        """
        ...

    async def orphans(self, active: Callable[[], Collection[tuple[str, int]]]) -> list[str]:
        """End what runs for this lab although no experiment needs it.

        Args:
            active: Returns the attempts (experiment, attempt) that are needed. It is called after what runs is known, so
                that a job that starts meanwhile is safe.

        Returns:
            What was ended, in words.

        Raises:
            ComputeError: The provider does not answer now.
        """
        ...

    async def cost(self, directory: Path) -> float | None:
        """Ask the provider what an ended job cost.

        Args:
            directory: The job's local folder.

        Returns:
            USD, or None if the provider does not say yet, or never will.

        Raises:
            ComputeError: The provider does not answer now.
        """
        ...

    def troubles(self) -> list[str]:
        """Return, in sentences, what the lab's owner should know of the place now. Nothing is asked for it."""
        ...

    async def close(self) -> None:
        """Let go of helpers. Jobs run on."""
        ...


def read_end(directory: Path) -> Observation | None:
    """Read how a job ended from its run directory.

    Args:
        directory: The job's local folder.

    Returns:
        How it ended; without a result if there is one that can't be read. None if there is none yet.
    """
    try:
        result = protocol.read_result(directory)
    except protocol.ResultError as error:
        return Observation("ended", reason=str(error))
    return None if result is None else Observation("ended", result=result, device_s=result.device_s)


def write_files(job: Job) -> None:
    """Write what the launcher expects in a run directory: the code, then the spec.

    Raises:
        OSError: The disk is full, or a path can't be written.
    """
    code = job.directory / protocol.CODE
    code.mkdir(parents=True, exist_ok=True)
    for path, content in job.files.items():
        target = code / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    protocol.write_json(job.directory / protocol.SPEC, job.spec)
