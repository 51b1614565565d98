"""What Slurm's states mean for a training, in the words that its agent reads."""

from autoresearch_mcp.server.compute.base import Observation
from autoresearch_mcp.server.compute.slurm.client import RUNNING, WAITING, QueueLine
from autoresearch_mcp.trainer.failures import Failure
from autoresearch_mcp.trainer.protocol import Result

_MACHINE = {  # nobody's fault: the training is started again, once
    "BOOT_FAIL": "the node did not boot",
    "NODE_FAIL": "the node failed",
    "PREEMPTED": "a job of higher priority took its place",
    "REVOKED": "the cluster gave it to another one",
}


def waits_or_runs(line: QueueLine) -> bool:
    """Return whether a job may still begin, or runs."""
    return line.state in WAITING or line.state in RUNNING


def ending(line: QueueLine | None, begun: bool, supervised: bool, cancelled: bool, output: str) -> Observation:
    """Return what became of a job that left no result.

    Args:
        line: What Slurm says of it; None where it has forgotten it.
        begun: Whether its script had begun.
        supervised: Whether its launcher had begun.
        cancelled: Whether this lab asked for its end.
        output: The end of what its script printed.
    """
    state, held_s = (line.state, line.held_s) if line else ("", None)
    if state == "CANCELLED" and not cancelled:
        failure = Failure("killed", "Somebody cancelled the job in Slurm; this lab did not.")
        return Observation("ended", result=Result("cancelled", failure=failure.as_dict(), fault="cancel"), device_s=held_s)
    if state in ("FAILED", "COMPLETED") and not supervised and not cancelled:
        where = "Do the nodes see the lab's folder, or [compute.slurm] folder in lab.toml?"
        why = f"Its output ends with: {output}" if output else "It printed nothing." if begun else where
        return Observation("refused", reason=f"The job ended before the training began. {why}", device_s=held_s)
    if not begun:
        return Observation("lost", device_s=0.0, never_started=True)
    if state == "OUT_OF_MEMORY":
        failure = Failure(
            "oom", "Slurm ended the job: it used more memory than its allocation has ([compute.slurm] memory_mb in lab.toml)."
        )
        return Observation("ended", result=Result("crashed", failure=failure.as_dict(), fault="code"), device_s=held_s)
    if state in ("TIMEOUT", "DEADLINE"):
        failure = Failure(
            "timeout", f"Slurm ended the job at its time limit ({state}); [compute.slurm] time_limit_min in lab.toml sets it."
        )
        return Observation("ended", result=Result("timed_out", failure=failure.as_dict(), fault="machine"), device_s=held_s)
    return Observation("lost", reason=f"Slurm says {state}: {_MACHINE[state]}." if state in _MACHINE else "", device_s=held_s)
