"""What a compute backend does: run one job a call, be asked how it is, and survive the death of whoever asked.

The runner is the only caller. A job is one attempt of one experiment, named by its id and attempt number, so that every
method can be repeated after a crash: `adopt` decides whether an earlier `submit` took effect, and forbids it for good if not.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.protocol import Result, Spec


class ComputeError(Exception):
    """The backend could not do it now; the text says why and what to do. The job was not started."""


@dataclass(frozen=True)
class Job:
    """One attempt of one experiment."""

    id: str
    attempt: int
    directory: Path  # local folder where log, loss curve and result are found, now or in the end
    spec: Spec
    files: dict[str, bytes] = field(default_factory=dict, repr=False)  # the commit's editable files


@dataclass(frozen=True)
class Observation:
    """How a job is.

    Attributes:
        phase: `lost`: it ended, or never began, without a result. `refused`: the backend will never run it, for `reason`.
        result: of a job that ended; None if what it left can't be read, for `reason`.
        used_s, share: of the training budget.
        device_s: seconds that the job held a device, where that differs from the time since its start.
        never_started: it is `lost` because its submitter died before it began. That says nothing of the job, and another attempt is due.
    """

    phase: Literal["starting", "running", "scoring", "ended", "lost", "refused"]
    used_s: float = 0.0
    share: float = 0.0
    result: Result | None = None
    reason: str = ""
    device_s: float | None = None
    never_started: bool = False


class Compute(Protocol):
    """A place where jobs run."""

    poll_s: float  # how long the runner waits between two rounds of `observe`

    def scored_beside(self, slots: int) -> int:
        """How many runs can be scored while `slots` others train, at no cost to them."""
        ...

    async def prepare(self) -> str:
        """Make ready what all jobs share (data, tokenizer), once; the `data` of every Spec. Cancelling the call ends it.

        Raises ComputeError."""
        ...

    async def submit(self, job: Job) -> None:
        """Start the job, or see to it that it starts. Returns soon, also where the device is to be waited for.

        Raises ComputeError if it was not started and won't be."""
        ...

    async def observe(self, job: Job) -> Observation: ...

    async def adopt(self, job: Job) -> bool:
        """After a crash: True if the job runs or has a result, or that can't be known now. False: it does not run and never will,
        and `observe` tells whether it had begun."""
        ...

    async def orphans(self, active: Callable[[], Collection[tuple[str, int]]]) -> list[str]:
        """End what runs for this lab and is not one of these (experiment, attempt); what was ended, in words.

        `active` is asked after what runs is known, so that a job that starts meanwhile is safe. Raises ComputeError."""
        ...

    async def cost(self, directory: Path) -> float | None:
        """USD that the provider says the ended job of this directory cost, once it says so. Raises ComputeError."""
        ...

    async def cancel(self, job: Job) -> None:
        """Ask a job to end; `observe` tells when it has. Repeating it is harmless."""
        ...

    async def close(self) -> None:
        """Let go of helpers. Jobs run on."""
        ...


def read_end(directory: Path) -> Observation | None:
    """Read how a job ended from its run directory.

    Returns:
        An observation without a result where there is one that can't be read; None where there is none yet.
    """
    try:
        result = protocol.read_result(directory)
    except protocol.ResultError as error:
        return Observation("ended", reason=str(error))
    return None if result is None else Observation("ended", result=result, device_s=result.device_s)


def write_files(job: Job) -> None:
    """Write what the launcher expects in a run directory: the code, then the spec."""
    code = job.directory / protocol.CODE
    code.mkdir(parents=True, exist_ok=True)
    for path, content in job.files.items():
        target = code / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    protocol.write_json(job.directory / protocol.SPEC, job.spec)
