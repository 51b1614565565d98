"""Trainings as jobs of a Slurm cluster: one job an experiment, its script the launcher, trained and scored in one allocation.

The lab runs where `sbatch` does, or reaches that by ssh (`[compute] login`). Its runs lie where the nodes see them: in the lab itself, or
in `[compute.slurm] folder`. What a run leaves there is copied back as it grows. A lock on a shared file system tells nothing, so Slurm
tells whether a job lives, and an exclusively made file (`claim`) decides between a job that begins and a runner that gives it up.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError, Job, Observation
from autoresearch_mcp.server.compute.line.transport import Ssh
from autoresearch_mcp.server.compute.slurm.client import RUNNING, QueueLine, Slurm, SlurmAway, SlurmRefused
from autoresearch_mcp.server.compute.slurm.folder import NotWritten, RunFolder
from autoresearch_mcp.server.compute.slurm.here import Here
from autoresearch_mcp.server.compute.slurm.login import Login
from autoresearch_mcp.server.compute.slurm.queue import Queue
from autoresearch_mcp.server.compute.slurm.script import SCRIPT, options
from autoresearch_mcp.server.compute.slurm.states import ending, waits_or_runs
from autoresearch_mcp.server.compute.slurm.there import FORBIDDEN
from autoresearch_mcp.server.compute.stopping import stop
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.retry import Backoff, Pauses
from autoresearch_mcp.server.settings import Settings, SlurmSection
from autoresearch_mcp.server.untrusted import one_line
from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.protocol import OwnText

ADOPT_S = 30.0  # for Slurm to say whether a job is there
ASK_AGAIN_S = 20.0  # between two wishes that a job end
SUBMIT_RETRY_S: Pauses = (2.0, 60.0)

_log = logging.getLogger("autoresearch.runner")


@dataclass(frozen=True)
class Pace:
    """How often Slurm is asked. The default is for this machine's Slurm; `FAR` is for a login node.

    Attributes:
        queue_s: Seconds between two looks at the queue, which serve all jobs.
        settle_s: Seconds until what an ended job wrote shows on this machine.
    """

    queue_s: float = 5.0
    settle_s: float = 20.0


FAR = Pace(15.0, 20.0)


def open_backend(settings: Settings, state: Path, log: Path) -> "SlurmCompute":
    """Open the backend for a lab; see `open_compute`."""
    training, section = settings.training, settings.compute.slurm
    drawn_with = StatePaths(state).secret if training.heldout == "secret" else None
    login = Ssh(settings.compute.login, section.python) if settings.compute.login else None
    return SlurmCompute(training.profile, training.threads, state, log, section, drawn_with, own=training.limits.own, login=login)


class SlurmCompute:
    """Implements `Compute` with Slurm.

    Args:
        profile: What is trained, a name in `autoresearch_mcp.trainer.prepare`.
        threads: How many threads each training uses.
        state: The lab's state folder.
        log: Where the messages of a preparation go.
        section: What lab.toml says of the cluster.
        secret: The file with the lab's secret, made if it is missing; None for the public split.
        slurm: Its commands.
        pace: How often it is asked.
        own: What the profile is made of, where it is of the owner's own text.
        login: The line to the cluster's login node, where this machine is none of the cluster's.
    """

    poll_s = 0.5

    def __init__(
        self,
        profile: str,
        threads: int,
        state: Path,
        log: Path,
        section: SlurmSection,
        secret: Path | None = None,
        slurm: Slurm | None = None,
        pace: Pace | None = None,
        own: OwnText | None = None,
        login: Ssh | None = None,
    ) -> None:
        self._profile, self._section, self._secret = profile, section, secret
        self._pace = pace or (FAR if login else Pace())
        self._lab = _lab_id(state)
        variables = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
        self._cluster: Here | Login
        if login is not None:
            self._cluster = far = Login(login, self._lab, section, variables, own)
            self._slurm = Slurm(run=far.run)
        else:
            shared = section.shared / f"lab-{self._lab}" if section.shared else None
            self._cluster, self._slurm = Here(section, variables, shared, log, own), slurm or Slurm()
        self._queue = Queue(self._slurm, f"ar-{self._lab}-", self._pace.queue_s)
        self._handing_in: dict[str, asyncio.Task[None]] = {}
        self._handed_in_at: dict[str, float] = {}  # by job name, on the monotonic clock
        self._gone_at: dict[str, float] = {}  # when a job was first missed, or seen to have ended
        self._asked_at: dict[str, float] = {}  # when somebody last tried to ask it to end
        self._asked: set[str] = set()  # jobs that were asked to end
        self._over: dict[str, Observation] = {}  # how jobs ended that left no result
        self._why = ""  # why Slurm takes no more jobs now

    def scored_beside(self, slots: int) -> int:
        """Return none: each job is scored in its own allocation, and holds its slot for that long."""
        return 0

    async def prepare(self) -> str:
        """Prepare the data where the nodes see it: on this machine, or by a job of a cluster that is reached by its login node.

        Raises:
            ComputeError: It can't be prepared.
        """
        return await self._cluster.prepare(self._profile, self._secret, self._slurm, self._queue)

    async def submit(self, job: Job) -> None:
        """Write the job's files where the nodes see them, and hand it in, in the background while Slurm is busy.

        Raises:
            ComputeError: Slurm's commands are not here, or the files can't be written.
        """
        if (job.directory / protocol.ABANDONED).exists():
            return
        folder = self._cluster.folder(job)
        if missing := self._cluster.missing(self._slurm):
            await folder.forbid()
            raise ComputeError(f"The job could not be started: {missing}.")
        try:
            await folder.write()
        except OSError as error:
            raise ComputeError(f"The run's files could not be written: {error}. Is the disk full?") from error
        self._handing_in[self._name(job)] = asyncio.create_task(self._hand_in(job, folder))

    async def observe(self, job: Job) -> Observation:
        """Return what the run's folder and the last look at the queue tell of the job. Slurm is asked in the background."""
        return await self._look_at(job, self._cluster.folder(job))

    async def adopt(self, job: Job) -> bool:
        """Look for the job in Slurm by its name, and forbid it if it is not there.

        Returns:
            True also where Slurm does not answer within `ADOPT_S`.
        """
        name, folder = self._name(job), self._cluster.folder(job)
        if name in self._handing_in or await folder.end() is not None:
            return True
        if folder.claim == FORBIDDEN:
            return False
        missing = self._cluster.missing(self._slurm)
        lines = None if missing else await self._queue.fresh(ADOPT_S)
        if lines is None and not missing:
            return True
        line = (lines or {}).get(name)
        if line is not None and waits_or_runs(line):
            folder.keep({"id": line.id})
            return True
        if await folder.end() is not None:
            return True
        try:
            await folder.forbid()  # one that has begun needs no ban: Slurm runs no job twice here
        except SlurmAway:
            return True
        return await folder.end() is not None  # what it left may have come with the last answer

    async def cancel(self, job: Job) -> None:
        """Ask the job to end: one that waits leaves the queue, one that runs writes a result. A repeated wish is less gentle."""
        name, folder = self._name(job), self._cluster.folder(job)
        if time.monotonic() - self._asked_at.get(name, -ASK_AGAIN_S) < ASK_AGAIN_S or await folder.end() is not None:
            return
        self._asked_at[name] = time.monotonic()
        with contextlib.suppress(SlurmAway):
            begun = await folder.ask_to_end()
            if (task := self._handing_in.get(name)) is not None:
                task.cancel()  # had Slurm taken it, it would end as it begins
            elif (id := folder.record.get("id")) is not None:
                line = self._queue.line(name)  # of two jobs of one name, it tells of the one that does something
                await self._slurm.cancel(line.id if line else id, gently=begun and name not in self._asked)
                self._asked.add(name)

    async def orphans(self, active: Callable[[], Collection[tuple[str, int]]]) -> list[str]:
        """Cancel this lab's jobs that neither the runner nor this backend needs, and return them in words.

        Raises:
            ComputeError: Slurm is away.
        """
        lines = await self._queue.fresh(ADOPT_S)
        if lines is None:
            raise ComputeError(f"Slurm doesn't answer: {self._queue.error or 'squeue takes too long'}.")
        needed = {self._named(id, attempt) for id, attempt in active()} | self._handing_in.keys()
        unneeded = [(name, line.id) for name, line in lines.items() if waits_or_runs(line) and name not in needed and self._run_of(name)]
        for _, id in unneeded:
            try:
                await self._slurm.cancel(id, gently=False)
            except SlurmAway as error:
                raise ComputeError(f"Slurm doesn't answer: {error}.") from error
        needed_runs = {f"{id}/{attempt}" for id, attempt in active()}
        await self._cluster.tidy(needed_runs | {self._run_of(name) for name, line in lines.items() if waits_or_runs(line)})
        return [f"job {id} ({name})" for name, id in unneeded]

    async def cost(self, directory: Path) -> float | None:
        """Return None: a cluster sends no bill."""
        return None

    def troubles(self) -> list[str]:
        """Return what the lab's owner should know: that Slurm is away, takes no jobs, or has let some wait for long."""
        refusal = [f"Slurm takes no more jobs now: {one_line(self._why, 300)}. The runner tries again."] if self._why else []
        return [*refusal, *self._cluster.troubles(), *self._queue.troubles()]

    async def close(self) -> None:
        """Stop following. Jobs run on, and a job on its way is found by its name."""
        await stop(self._handing_in.values())
        self._handing_in.clear()
        await self._queue.close()

    async def _hand_in(self, job: Job, folder: RunFolder) -> None:
        """Hand a job in, again and again while Slurm is away. What it refuses for good is written down."""
        name, backoff = self._name(job), Backoff(SUBMIT_RETRY_S)
        comment = f"autoresearch-mcp lab {self._lab} experiment {job.id} attempt {job.attempt}"
        try:
            while "id" not in folder.record:
                try:
                    there = await folder.deliver()
                    given = options(name, comment, there, job.spec, self._section)
                    id = await self._slurm.submit(there / SCRIPT, given)
                    folder.keep({"id": id})
                    self._handed_in_at[name], self._why = time.monotonic(), ""
                except SlurmAway as error:
                    self._why = str(error)
                    await asyncio.sleep(backoff.failed())
                    if line := (await self._queue.fresh(ADOPT_S) or {}).get(name):  # it was taken, and the answer lost
                        folder.keep({"id": line.id})
                        self._why = ""
        except SlurmRefused as error:
            _log.error("%s refused by Slurm: %s", job.id, error)
            reason = f"Slurm refused the job: {one_line(str(error), 300)}. [compute.slurm] in lab.toml says what is asked for."
            folder.keep({"refused": reason})
        except NotWritten as error:
            folder.keep({"refused": f"The job could not be started on {error}"})
        except OSError as error:  # the record can't be written: a job that Slurm took is found by its name
            _log.error("%s: %s", job.id, error)
        finally:
            self._handing_in.pop(name, None)
            if not self._handing_in:
                self._why = ""

    async def _look_at(self, job: Job, folder: RunFolder) -> Observation:
        name = self._name(job)
        if (end := await folder.end()) is not None:
            if (task := self._handing_in.get(name)) is not None:
                task.cancel()  # Slurm took it, and the answer was lost
            self._forget(name)
            return end
        if name in self._over:
            return self._over[name]
        claim, record = folder.claim, folder.record
        if claim == FORBIDDEN:
            return Observation("lost", device_s=0.0, never_started=True)
        if "refused" in record:
            return Observation("refused", reason=record["refused"], device_s=0.0)
        if name in self._handing_in:
            return Observation("starting", device_s=0.0)
        line = self._queue.line(name)
        if "id" not in record:
            if line is not None and record:  # it was taken, and the answer lost
                folder.keep({"id": line.id})
            return Observation("starting", device_s=0.0)
        if self._queue.seen_at < self._handed_in_at.get(name, 0.0) or (line is not None and waits_or_runs(line)):
            self._gone_at.pop(name, None)
            return self._under_way(job, line)
        gone_at = self._gone_at.setdefault(name, time.monotonic())
        if self._queue.error or time.monotonic() - gone_at < self._pace.settle_s:
            return self._under_way(job, line)
        if line is None:
            try:
                line = await self._slurm.ended(record["id"])
            except SlurmAway:
                return self._under_way(job, line)
        try:
            begun = not await folder.forbid()
        except SlurmAway:
            return self._under_way(job, line)
        if (end := await folder.end()) is None:  # what it left may have come with the last answer
            end = ending(line, begun, folder.supervised, folder.cancelled, folder.output())
        self._forget(name)
        self._over[name] = end
        return end

    def _under_way(self, job: Job, line: QueueLine | None) -> Observation:
        """Return how far a job is that waits, runs, or ended a moment ago, by what its launcher wrote last."""
        held_s = line.held_s if line else 0.0
        if line is not None and line.state in RUNNING:
            held_s += max(0.0, time.monotonic() - self._queue.seen_at)
        progress = protocol.read_json(job.directory / protocol.PROGRESS) or {"phase": "starting"}
        used = float(progress.get("used_s", 0.0))
        return Observation(progress["phase"], used_s=used, share=min(1.0, used / job.spec.budget_s), device_s=held_s)

    def _forget(self, name: str) -> None:
        for known in (self._handed_in_at, self._gone_at, self._asked_at):
            known.pop(name, None)
        self._asked.discard(name)

    def _name(self, job: Job) -> str:
        return self._named(job.id, job.attempt)

    def _named(self, id: str, attempt: int) -> str:
        return f"ar-{self._lab}-{id}-{attempt}"

    def _run_of(self, name: str) -> str:
        """Return the run that a job is of, as `experiment/attempt`; empty for one that prepares data."""
        id, _, attempt = name.removeprefix(f"ar-{self._lab}-").rpartition("-")
        return f"{id}/{attempt}" if attempt.isdigit() else ""


def _lab_id(state: Path) -> str:
    """Return what tells this lab's jobs from those of others. It is drawn once, and kept in the state folder."""
    path = StatePaths(state).slurm
    if (known := protocol.read_json(path)) is not None:
        return str(known["lab"])
    lab = secrets.token_hex(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    protocol.write_json(path, {"lab": lab})
    return lab
