"""Trainings on the GPUs of this machine: each is given one by UUID, trains and is scored on it, and gives it back.

It is `LocalCompute` with a `Pool` around it. A job for which no device is free waits here, at no cost. What a device was like before and
after a run is kept in the run's folder.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from autoresearch_mcp.server.compute.base import DEVICE, ComputeError, Job, Observation
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.compute.local.nvml import Gpu, GpuState, NoGpus
from autoresearch_mcp.server.compute.local.pool import Pool
from autoresearch_mcp.trainer import protocol

TRY_S = 1.0  # between two tries to find a free device
LOOK_S = 5.0  # between two looks at the device of a run


class PooledCompute:
    """Implements `Compute` with the processes of another backend of this machine, one device each.

    Args:
        local: Runs the processes.
        open_pool: Makes the pool, in a thread, when the first job needs it.
    """

    poll_s = LocalCompute.poll_s

    def __init__(self, local: LocalCompute, open_pool: Callable[[], Pool]) -> None:
        self._local, self._open_pool = local, open_pool
        self._pool: Pool | None = None
        self._waiting: dict[str, Job] = {}
        self._tried_at = 0.0
        self._held: dict[str, str] = {}  # job -> UUID
        self._looked_at: dict[str, float] = {}
        self._over: dict[str, Observation] = {}  # jobs that could not be started, or whose device was lost

    def scored_beside(self, slots: int) -> int:
        """Return how many runs can be scored beside others that train; see `LocalCompute`."""
        return self._local.scored_beside(slots)

    async def prepare(self) -> str:
        """Look for the devices, and prepare the data.

        Raises:
            ComputeError: There is no device, or the data can't be prepared.
        """
        await self._pooled()
        return await self._local.prepare()

    async def submit(self, job: Job) -> None:
        """Start the job on a free device, or let it wait for one.

        Raises:
            ComputeError: There is no device, the files can't be written, or the launcher does not start.
        """
        await self._pooled()
        self._waiting[_key(job)] = job
        await self._start(job)

    async def observe(self, job: Job) -> Observation:
        """Return how the job is. One whose device fell off the bus is ended, and lost."""
        key = _key(job)
        if key in self._over:
            return self._over[key]
        if key in self._waiting:
            try:
                waits = time.monotonic() - self._tried_at < TRY_S or not await self._start(job)
            except ComputeError as error:
                self._over[key] = Observation("refused", reason=str(error), device_s=0.0)
                return self._over[key]
            if waits:
                return Observation("starting", device_s=0.0)
        now = await self._local.observe(job)
        if key not in self._held:
            return now
        ended = now.phase in ("ended", "lost", "refused")
        if not ended and time.monotonic() - self._looked_at.get(key, 0.0) < LOOK_S:
            return now
        self._looked_at[key] = time.monotonic()
        state = await asyncio.to_thread((await self._pooled()).look, self._held[key])
        crashed = now.phase == "lost" or (now.result is not None and now.result.state == "crashed")
        if state is None and (crashed or not ended):
            return await self._lose(job)
        if not ended:
            return now
        await asyncio.to_thread(_keep, job.directory, end=state)
        self._release(key)
        return replace(now, device_s=await asyncio.to_thread(_held_s, job.directory))

    async def adopt(self, job: Job) -> bool:
        """Return whether the job waits here, runs or has a result. One that runs keeps its device."""
        if _key(job) in self._waiting:
            return True
        if _key(job) in self._over:
            return False
        if not await self._local.adopt(job):
            self._release(_key(job))
            return False
        if (known := protocol.read_json(job.directory / DEVICE)) is not None and (await self._local.observe(job)).result is None:
            (await self._pooled()).keep(_key(job), str(known["uuid"]))
            self._held[_key(job)] = str(known["uuid"])
        return True

    async def cancel(self, job: Job) -> None:
        """End the job. One that waits never starts."""
        if self._waiting.pop(_key(job), None) is not None:
            await self._local.adopt(job)  # which forbids what has not begun
        await self._local.cancel(job)

    async def orphans(self, active: Callable[[], Collection[tuple[str, int]]]) -> list[str]:
        """Return no orphans; see `LocalCompute`."""
        return await self._local.orphans(active)

    async def cost(self, directory: Path) -> float | None:
        """Return None: nobody bills this machine."""
        return await self._local.cost(directory)

    def troubles(self) -> list[str]:
        """Return which GPUs are left alone, and why."""
        return self._pool.troubles() if self._pool is not None else []

    async def close(self) -> None:
        """Let go of the warm parent. Jobs run on, and what waited is queued again."""
        await self._local.close()

    async def _pooled(self) -> Pool:
        if self._pool is None:
            try:
                pool = await asyncio.to_thread(self._open_pool)
            except NoGpus as error:
                raise ComputeError(f"The job could not be started: {error}.") from error
            if not pool.gpus:
                raise ComputeError("The job could not be started: this machine has none of the GPUs that [compute] devices names.")
            self._pool = pool
        return self._pool

    async def _start(self, job: Job) -> bool:
        """Start a job that waits, where a device is free for it."""
        key, self._tried_at = _key(job), time.monotonic()
        given = await asyncio.to_thread((await self._pooled()).take, key)
        if given is None:
            return False
        waiting = self._waiting.pop(key)
        gpu, state = given
        try:
            await asyncio.to_thread(_keep, job.directory, gpu, state)
            await self._local.submit(replace(waiting, spec=replace(waiting.spec, visible=gpu.uuid)))
        except (ComputeError, OSError) as error:
            self._release(key)
            if isinstance(error, ComputeError):
                raise
            raise ComputeError(f"The run's files could not be written: {error}. Is the disk full?") from error
        self._held[key] = gpu.uuid
        return True

    async def _lose(self, job: Job) -> Observation:
        """Kill a run whose device is gone: what its code did then is no result."""
        with contextlib.suppress(OSError, ValueError):
            if (await self._local.observe(job)).phase not in ("ended", "lost"):
                os.kill(int((job.directory / protocol.LOCK).read_text(encoding="ascii")), signal.SIGKILL)
        uuid = self._held[_key(job)]
        self._release(_key(job))
        held_s = await asyncio.to_thread(_held_s, job.directory)
        self._over[_key(job)] = Observation("lost", reason=f"Its GPU ({uuid}) doesn't answer any more.", device_s=held_s)
        return self._over[_key(job)]

    def _release(self, key: str) -> None:
        if self._pool is not None:
            self._pool.release(key)
        self._held.pop(key, None)
        self._looked_at.pop(key, None)


def _key(job: Job) -> str:
    return f"{job.id}/{job.attempt}"


def _keep(directory: Path, gpu: Gpu | None = None, start: GpuState | None = None, end: GpuState | None = None) -> None:
    """Note in a run's folder which device it got, and how that was before and after."""
    directory.mkdir(parents=True, exist_ok=True)
    known = protocol.read_json(directory / DEVICE) or {}
    if gpu is not None:
        known |= {"uuid": gpu.uuid, "name": gpu.name, "at": time.time()}
    states = {name: state.as_dict() for name, state in (("start", start), ("end", end)) if state is not None}
    protocol.write_json(directory / DEVICE, known | states)


def _held_s(directory: Path) -> float | None:
    """Return for how long a run has held its device, until its result if it has one."""
    known = protocol.read_json(directory / DEVICE)
    if known is None:
        return None
    try:
        until = (directory / protocol.RESULT).stat().st_mtime
    except OSError:
        until = time.time()
    return max(0.0, until - float(known["at"]))
