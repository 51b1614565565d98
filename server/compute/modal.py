"""Trainings in Modal sandboxes: one an experiment, its entry point the launcher, no network, the training split read-only.

Nothing here waits for the service: `submit` writes the job's files and starts a keeper (`modal_keeper.py`), `observe` tells what the
keeper knows. So a creation that blocks for capacity, or a service that is away for minutes, holds up no other experiment, and a
closed laptop finds what it missed on the runs volume. The lab's slots are its GPU cap: an experiment that waits for its score
(`modal_scoring.py`) keeps its slot, so trainings and scorers together never exceed it.
"""

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

from trainer import protocol

from .base import ComputeError, Job, Observation
from .deployment import TRAINING, Deployment, check, load
from .local import write_files
from .modal_keeper import SANDBOX, Keeper, ended
from .modal_scoring import PATIENCE_S, Scoring
from .modal_service import ModalAway, Service
from .modal_site import Site

ADOPT_S = 30.0  # for the service to say whether a sandbox is there
CREATION_S = 10.0  # that `close` leaves to creations on their way
REMOTE = ("python3", "-u", "-m", "trainer.remote")


class ModalCompute:
    """Implements `Compute` with Modal.

    Args:
        profile: what is trained, a name in `trainer.prepare`.
        state: the lab's state folder, where `setup modal` left its deployment.
        gpus: experiment device -> GPU to ask for; the kinds that this lab may use.
        command: a sandbox's entry point.
        patience_s: how long a submitted model waits for others to be scored with.
    """

    poll_s = 0.5

    def __init__(
        self,
        profile: str,
        state: Path,
        gpus: Mapping[str, str],
        command: tuple[str, ...] = REMOTE,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._profile, self._state, self._gpus, self._command, self._patience_s = profile, state, gpus, command, patience_s
        self._site: Site | None = None
        self._scoring: Scoring | None = None
        self._keepers: dict[tuple[str, int], Keeper] = {}

    async def prepare(self) -> str:
        check(self._open().deployment, self._profile)
        return TRAINING

    async def submit(self, job: Job) -> None:
        if (job.directory / protocol.ABANDONED).exists():
            return
        check(self._open().deployment, self._profile)
        try:
            await asyncio.to_thread(write_files, job)
        except OSError as error:
            raise ComputeError(f"The run's files could not be written: {error}. Is the disk full?") from error
        self._keep(job, fresh=True)

    async def observe(self, job: Job) -> Observation:
        keeper = self._keepers.get((job.id, job.attempt))
        if keeper is not None and keeper.seen.phase != "ended":
            return keeper.observation()
        result = await asyncio.to_thread(ended, job)
        if result is None:
            return Observation("lost")
        self._keepers.pop((job.id, job.attempt), None)
        return Observation("ended", result=result, device_s=result.get("device_s"))

    async def adopt(self, job: Job) -> bool:
        if await asyncio.to_thread(ended, job) is not None:
            return True
        keeper = self._keepers.get((job.id, job.attempt))
        if keeper is None:
            try:
                self._open()
            except ComputeError:
                return self._forbid(job)  # without a deployment, nobody can have started it
            job.directory.mkdir(parents=True, exist_ok=True)
            keeper = self._keep(job, fresh=False)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(keeper.found.wait(), ADOPT_S)
        return keeper.seen.phase != "lost" or self._forbid(job)

    @staticmethod
    def _forbid(job: Job) -> bool:
        job.directory.mkdir(parents=True, exist_ok=True)
        (job.directory / protocol.ABANDONED).touch()
        return False

    async def cancel(self, job: Job) -> None:
        if (keeper := self._keepers.get((job.id, job.attempt))) is not None:
            keeper.cancel()

    async def orphans(self, active: Collection[tuple[str, int]]) -> list[str]:
        if self._site is None:
            return []
        return await end_orphans(self._site.service, self._site.deployment, active)

    async def cost(self, job: Job) -> float | None:
        sandbox = protocol.read_json(job.directory / SANDBOX)
        if sandbox is None:
            return None
        with contextlib.suppress(ModalAway, ComputeError):
            return await self._open().service.cost(str(sandbox["id"]))
        return None

    async def close(self) -> None:
        creating = [keeper for keeper in self._keepers.values() if not keeper.found.is_set()]
        if creating:
            await asyncio.wait([asyncio.create_task(keeper.found.wait()) for keeper in creating], timeout=CREATION_S)
        for keeper in self._keepers.values():
            keeper.task.cancel()
        await asyncio.gather(*(keeper.task for keeper in self._keepers.values()), return_exceptions=True)
        self._keepers.clear()
        if self._scoring is not None:
            await self._scoring.close()

    def _open(self) -> Site:
        if self._site is None:
            deployment = load(self._state)
            self._site = Site(Service(deployment.environment, deployment.app), deployment, self._gpus, self._command)
            self._scoring = Scoring(self._site, self._trains, self._patience_s)
        return self._site

    def _trains(self) -> bool:
        return any(keeper.training for keeper in self._keepers.values())

    def _keep(self, job: Job, fresh: bool) -> Keeper:
        assert self._site is not None and self._scoring is not None
        keeper = self._keepers[job.id, job.attempt] = Keeper(self._site, self._scoring, job, fresh)
        return keeper


async def end_orphans(service: Service, deployment: Deployment, active: Collection[tuple[str, int]], dry_run: bool = False) -> list[str]:
    """End this lab's sandboxes that train no active experiment, and its scorers where nothing is active; what was ended, in words.

    Raises:
        ModalAway, ModalRefused.
    """
    ended = []
    for id, tags in (await service.running({"lab": deployment.lab})).items():
        if tags.get("stage") not in ("train", "score"):
            continue
        trains = tags["stage"] == "train"
        needed = (tags["experiment"], int(tags["attempt"])) in active if trains else bool(active)
        if not needed:
            if not dry_run:
                await service.terminate(id)
            ended.append(f"{id}, which {'trains ' + tags['experiment'] if trains else 'scores'}")
    return ended
