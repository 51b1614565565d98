"""Slurm's own commands, run without a shell: what they answer, and which of their refusals may pass."""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from autoresearch_mcp.server.compute.slurm.there import COMMAND_S

COMMANDS = ("sbatch", "squeue", "scancel")
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED"})
RUNNING = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED"})
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "KRB5CCNAME")
_OWN = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "MUNGE_")
_COLUMNS = "%i|%T|%M|%r|%j"
_ELAPSED = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")
_MAY_PASS = re.compile(
    r"contact slurm controller|timed out|temporarily|try again|zero bytes|connection|communication|QOS policy|too many|job count|limit",
    re.IGNORECASE,
)
_NEVER_PASSES = re.compile(r"invalid|not available|unspecified|not found|denied|time limit.*partition", re.IGNORECASE)


Run = Callable[[Sequence[str]], Awaitable[tuple[int, str, str]]]
"""Runs a command elsewhere, and returns its status and what it printed. Raises `SlurmAway`, or `SlurmRefused` where it can't be started."""


class SlurmAway(Exception):
    """Slurm does not answer, or takes no more jobs now. Another try may help."""


class SlurmRefused(Exception):
    """Slurm will never take it. The text is Slurm's own."""


@dataclass(frozen=True)
class QueueLine:
    """What Slurm says of a job.

    Attributes:
        id: The job's number in Slurm.
        state: Slurm's long name, such as PENDING or NODE_FAIL.
        held_s: Seconds that it has held its allocation.
        reason: Why it waits or failed, in Slurm's word; empty where it says none.
    """

    id: str
    state: str
    held_s: float = 0.0
    reason: str = ""


class Slurm:
    """Runs sbatch, squeue, scancel, sinfo and sacct of one cluster.

    Args:
        commands: Where the commands are, by name; what is left out is looked up in PATH.
        run: Runs them elsewhere; None is on this machine.
    """

    def __init__(self, commands: Mapping[str, str] | None = None, run: Run | None = None) -> None:
        self._commands, self._run_it, self._is_here = commands or {}, run or _run_here, run is None

    def missing(self) -> list[str]:
        """Return the commands that are not on this machine, where they run here."""
        return [name for name in COMMANDS if self._is_here and shutil.which(self._commands.get(name, name)) is None]

    async def submit(self, script: PurePath, options: Sequence[str]) -> str:
        """Hand in a batch script.

        Returns:
            The job's number.

        Raises:
            SlurmAway: It was not taken now, or it is unknown whether it was: look for it by its name.
            SlurmRefused: It never will be.
        """
        out = await self._run("sbatch", "--parsable", *options, str(script))
        id = out.strip().partition(";")[0]  # a cluster's name may follow
        if not id.isdigit():
            raise SlurmAway(f"sbatch answered {out.strip()[:200]!r}, which is no job number")
        return id

    async def jobs(self, prefix: str) -> dict[str, QueueLine]:
        """Return this user's jobs whose names begin with `prefix`, by name: those that wait or run, and those that ended minutes ago.

        One that was handed in twice, since an answer was lost, has two jobs, of which only the first to begin does something. It is told
        of by the one that runs, else by one that waits, else by the last.

        Raises:
            SlurmAway: Slurm doesn't answer.
        """
        out = await self._run("squeue", "--noheader", "--states=all", "--me", f"--format={_COLUMNS}")
        lines: dict[str, QueueLine] = {}
        for text in out.splitlines():
            id, state, elapsed, reason, name = [*text.strip().split("|", 4), "", "", "", "", ""][:5]
            if not name.startswith(prefix):
                continue
            line = QueueLine(id, state, _seconds(elapsed), "" if reason in ("None", "N/A") else reason)
            if name not in lines or _tells(line) > _tells(lines[name]):
                lines[name] = line
        return lines

    async def ended(self, id: str) -> QueueLine | None:
        """Return how a job ended that Slurm's queue has forgotten; None where the cluster keeps no accounts, or doesn't know it.

        Raises:
            SlurmAway: Slurm doesn't answer.
        """
        try:
            out = await self._run("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={id}", "--format=State,ElapsedRaw")
        except SlurmRefused:  # accounting is disabled, or there is no sacct
            return None
        state, _, elapsed = out.strip().partition("\n")[0].partition("|")
        return QueueLine(id, state.split()[0], float(elapsed or 0)) if state else None  # "CANCELLED by 1000"

    async def cancel(self, id: str, gently: bool) -> None:
        """End a job.

        Args:
            id: Its number.
            gently: Whether to ask the launcher, which then writes a result. A job that still waits is removed by the other way only.

        Raises:
            SlurmAway: Slurm doesn't answer.
        """
        with contextlib.suppress(SlurmRefused):  # it has ended
            await self._run("scancel", *(["--signal=TERM", "--batch"] if gently else []), id)

    async def partition(self, name: str) -> str:
        """Return the states of a partition's nodes, as sinfo tells them; empty where there is no such partition.

        Args:
            name: Of the partition; empty for all.
        """
        out = await self._run("sinfo", "--noheader", "--format=%T", *([f"--partition={name}"] if name else []))
        return ", ".join(sorted(set(out.split())))

    async def _run(self, command: str, *arguments: str) -> str:
        status, out, err = await self._run_it([self._commands.get(command, command), *arguments])
        if status == 0:
            return out
        text = " ".join(err.split())[:300] or f"{command} ended with status {status}"
        if _NEVER_PASSES.search(text) or not _MAY_PASS.search(text):
            raise SlurmRefused(text)
        raise SlurmAway(text)


def _tells(line: QueueLine) -> tuple[bool, bool, int]:
    """Return what ranks the jobs of one name."""
    return line.state in RUNNING, line.state in WAITING, int(line.id)


async def _run_here(command: Sequence[str]) -> tuple[int, str, str]:
    own = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_OWN)}
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=own,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise SlurmRefused(f"{command[0]} can't be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(COMMAND_S):
            out, err = await process.communicate()
    except TimeoutError:
        raise SlurmAway(f"{command[0]} did not answer within {COMMAND_S:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


def _seconds(elapsed: str) -> float:
    """Read squeue's time, such as 1-02:03:04 or 3:04."""
    if (match := _ELAPSED.fullmatch(elapsed)) is None:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
