"""Trainings in Modal sandboxes: one an experiment, its entry point the launcher, no network, the training split read-only.

Nothing here waits for the service: `submit` writes the job's files and starts a `SandboxJob` (`job.py`), `observe` returns what that
knows. So a creation that blocks for capacity, or a service that is away for minutes, holds up no other experiment, and a closed
laptop finds what it missed on the runs volume. The lab's slots are its GPU cap: of the experiments that wait for their scores
(`scoring.py`) one keeps its slot, for the scorer of all, so trainings and scorers together never exceed it.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError, Job, Observation, read_end, write_files
from autoresearch_mcp.server.compute.modal.client import ModalAway, Service
from autoresearch_mcp.server.compute.modal.context import ModalContext
from autoresearch_mcp.server.compute.modal.deployment import TRAINING, Deployment, check, load
from autoresearch_mcp.server.compute.modal.job import SANDBOX, SandboxJob, State
from autoresearch_mcp.server.compute.modal.own_code import folders_for, packages_of
from autoresearch_mcp.server.compute.modal.scoring import PATIENCE_S, Scoring, scorers
from autoresearch_mcp.server.compute.stopping import stop
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.retry import woken
from autoresearch_mcp.server.secret import fingerprint
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.profiles import Profile

ADOPT_S = 30.0  # for the service to say whether a sandbox is there
CREATION_S = 10.0  # that `close` leaves to creations on their way
REMOTE = ("python3", "-u", "-m", "autoresearch_mcp.trainer.remote")


def open_backend(settings: Settings, state: Path, log: Path) -> "ModalCompute":
    """Open the backend for a lab; see `open_compute`."""
    drawn_with = StatePaths(state).secret if settings.training.heldout == "secret" else None
    return ModalCompute(
        settings.training.limits, state, requests(), secret=drawn_with, packages=lambda: packages_of(settings, StatePaths(state).root)
    )


class ModalCompute:
    """Implements `Compute` with Modal.

    Args:
        profile: What is trained: a name in `autoresearch_mcp.trainer.prepare`, or the profile itself.
        state: The lab's state folder, where `setup modal` left its deployment.
        gpus: An experiment's kind of device -> the GPU to ask for, or none.
        command: A sandbox's entry point.
        patience_s: How long a submitted model waits for others to be scored with.
        secret: The file with the lab's secret; None for the public split.
        packages: Returns what code that keeps no contract needs in the image now; None where code keeps it.
    """

    poll_s = 0.5

    def __init__(
        self,
        profile: str | Profile,
        state: Path,
        gpus: Mapping[str, str | None],
        command: tuple[str, ...] = REMOTE,
        patience_s: float = PATIENCE_S,
        secret: Path | None = None,
        packages: Callable[[], Sequence[str] | None] = lambda: None,
    ) -> None:
        self._secret, self._packages = secret, packages
        self._profile, self._state, self._gpus, self._command, self._patience_s = profile, state, gpus, command, patience_s
        self._context: ModalContext | None = None
        self._scoring: Scoring | None = None
        self._sandbox_jobs: dict[tuple[str, int], SandboxJob] = {}

    def scored_beside(self, slots: int) -> int:
        """Return how many jobs wait for scores without a sandbox of their own: all but one of each kind of device."""
        kinds = [each.device for each in self._sandbox_jobs.values() if each.scoring]
        return len(kinds) - len(set(kinds))

    async def prepare(self) -> str:
        """Check that `setup modal` has prepared the lab's data, and return where sandboxes mount it; nothing where code brings its own.

        Raises:
            ComputeError: It has not; the text says what to run.
        """
        await self._check()
        assert self._context is not None
        return TRAINING if self._context.deployment.training else ""

    async def submit(self, job: Job) -> None:
        """Write the job's files and have its sandbox made in the background, however long Modal takes.

        Raises:
            ComputeError: The lab is not set up, or the files can't be written.
        """
        if (job.directory / protocol.ABANDONED).exists():
            return
        await self._check(job.spec)
        try:
            await asyncio.to_thread(write_files, job)
        except OSError as error:
            raise ComputeError(f"The run's files could not be written: {error}. Is the disk full?") from error
        self._start(job, fresh=True)

    async def observe(self, job: Job) -> Observation:
        """Return what this process knows of the job, or what an earlier one left in the job's folder. Modal is not asked."""
        sandbox_job = self._sandbox_jobs.get((job.id, job.attempt))
        if sandbox_job is not None and sandbox_job.state is not State.ENDED:
            return sandbox_job.observe()
        end = await asyncio.to_thread(read_end, job.directory)
        if end is None:
            return Observation("lost")
        self._sandbox_jobs.pop((job.id, job.attempt), None)
        return end

    async def adopt(self, job: Job) -> bool:
        """Look for the job's sandbox and its result, on Modal too; forbid the job if there is neither.

        Returns:
            True if there is one, or if Modal did not answer within `ADOPT_S`; then the search goes on in the background.
        """
        if await asyncio.to_thread(read_end, job.directory) is not None:
            return True
        sandbox_job = self._sandbox_jobs.get((job.id, job.attempt))
        if sandbox_job is None:
            try:
                self._open()
            except ComputeError:
                return self._forbid(job)  # without a deployment, nobody can have started it
            job.directory.mkdir(parents=True, exist_ok=True)
            sandbox_job = self._start(job, fresh=False)
            await woken(sandbox_job.located, ADOPT_S)
        return sandbox_job.state is not State.LOST or self._forbid(job)

    @staticmethod
    def _forbid(job: Job) -> bool:
        job.directory.mkdir(parents=True, exist_ok=True)
        (job.directory / protocol.ABANDONED).touch()
        return False

    async def cancel(self, job: Job) -> None:
        """Ask the job's sandbox to end, in the background."""
        if (sandbox_job := self._sandbox_jobs.get((job.id, job.attempt))) is not None:
            sandbox_job.cancel()

    async def orphans(self, active: Callable[[], Collection[tuple[str, int]]]) -> list[str]:
        """End this lab's sandboxes that neither the runner nor this backend needs, and return them in words.

        Raises:
            ComputeError: Modal is away, or refuses.
        """
        context = self._open()
        try:
            return await end_orphans(context.service, context.deployment, lambda: {*active(), *self._sandbox_jobs})
        except ModalAway as error:
            raise ComputeError(f"Modal is away: {error}") from error

    async def cost(self, directory: Path) -> float | None:
        """Return what Modal bills for the job's sandbox and for its share of the scorers, in USD.

        Returns:
            None if a sandbox is unknown, or Modal does not say yet what one of them cost.

        Raises:
            ComputeError: Modal is away, or refuses.
        """
        sandbox = protocol.read_json(directory / SANDBOX)
        if sandbox is None:
            return None
        shares = [(str(sandbox["id"]), 1), *scorers(directory)]
        service = self._open().service
        try:
            costs = [(await service.cost(id), jobs) for id, jobs in shares]
        except ModalAway as error:
            raise ComputeError(f"Modal is away: {error}") from error
        known = [usd / jobs for usd, jobs in costs if usd is not None]
        return sum(known) if len(known) == len(costs) else None

    def troubles(self) -> list[str]:
        """Return none: what Modal refuses stands with the experiment."""
        return []

    async def close(self) -> None:
        """Give creations under way a few seconds, then stop following. Sandboxes run on."""
        creating = [each for each in self._sandbox_jobs.values() if not each.located.is_set()]
        if creating:
            await asyncio.wait([asyncio.create_task(each.located.wait()) for each in creating], timeout=CREATION_S)
        await stop(each.task for each in self._sandbox_jobs.values())
        self._sandbox_jobs.clear()
        if self._scoring is not None:
            await self._scoring.close()

    async def _check(self, spec: protocol.Spec | None = None) -> None:
        """Check that trainings may use what `setup modal` made, also since this began.

        Args:
            spec: Of a training, whose folders must be there as they are here.

        Raises:
            ComputeError: They may not.
        """
        context = self._open()
        context.deployment = await asyncio.to_thread(self._usable, context.deployment, spec)

    def _usable(self, known: Deployment, spec: protocol.Spec | None) -> Deployment:
        try:
            packages = self._packages()
            heldout = fingerprint(self._secret) if self._secret is not None and packages is None else ""
        except LabError as error:
            raise ComputeError(str(error)) from error
        given = {folder.key: folder.name for folder in folders_for(spec)} if spec is not None and packages is not None else None
        try:
            check(known, self._profile, heldout, packages, given)
        except ComputeError:
            if (made := load(self._state)) == known:
                raise
            check(made, self._profile, heldout, packages, given)
            return made
        return known

    def _open(self) -> ModalContext:
        if self._context is None:
            deployment = load(self._state)
            self._context = ModalContext(Service(deployment.environment, deployment.app), deployment, self._gpus, self._command)
            self._scoring = Scoring(self._context, self._trains, self._patience_s)
        return self._context

    def _trains(self) -> bool:
        return any(each.training for each in self._sandbox_jobs.values())

    def _start(self, job: Job, fresh: bool) -> SandboxJob:
        assert self._context is not None and self._scoring is not None
        sandbox_job = self._sandbox_jobs[job.id, job.attempt] = SandboxJob(self._context, self._scoring, job, fresh)
        return sandbox_job


async def end_orphans(
    service: Service, deployment: Deployment, active: Callable[[], Collection[tuple[str, int]]], dry_run: bool = False
) -> list[str]:
    """End this lab's sandboxes that train no active experiment, and its scorers where nothing is active.

    Args:
        service: Makes the calls.
        deployment: Names the lab.
        active: Returns the attempts (experiment, attempt) that are needed.
        dry_run: Whether to end nothing.

    Returns:
        The sandboxes that were ended, or would be, in words.

    Raises:
        ModalAway: The service does not answer.
        ModalRefused: The service answered that it won't do it.
    """
    running = await service.running({"lab": deployment.lab})
    needed = {(id, str(attempt)) for id, attempt in active()}
    ended = []
    for id, tags in running.items():
        trained = tags.get("experiment", ""), tags.get("attempt", "")
        if tags.get("stage") == "train" and trained not in needed:
            ended.append((id, f"{id}, which trains {trained[0]}"))
        elif tags.get("stage") == "score" and not needed:
            ended.append((id, f"{id}, which scores"))
    for id, _ in ended if not dry_run else []:
        await service.terminate(id)
    return [text for _, text in ended]
