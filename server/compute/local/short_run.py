"""Trains code for a few seconds, as a run would, and says what an agent would hit. Nothing is scored, recorded or queued.

It is one launcher in a run directory of its own, up to the submission: the same sandbox, limits, data and seed as any run. No part of it
reads held-out text. It competes with what trains now, so a caller that isn't the lab's owner should ask for `nice`.
"""

import asyncio
import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from autoresearch_mcp.server.compute.base import ComputeError, Job, Observation
from autoresearch_mcp.server.compute.local.backend import LAUNCHER, LocalCompute, open_local
from autoresearch_mcp.server.compute.spec import spec_of
from autoresearch_mcp.server.models import Failure
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.runs import read_tail
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.trainer import client, profiles, protocol
from autoresearch_mcp.trainer.metrics import NamedMetric, OutputReader, Reading
from autoresearch_mcp.trainer.protocol import Result, Spec

ID = "short-run"
_KEPT_S = 3600.0  # after which a folder that a killed process left is removed
_LOG = 16_000  # bytes of the output's end
_STEP = re.compile(r"(?:\b|_)(?:step|iter|iteration|batch|epoch)s?\b[\s:=#\[(]*(\d{1,9})", re.IGNORECASE)
_REFUSED = re.compile(r"Permission denied|Read-only file system|Operation not permitted|\[Errno (?:1|13|30)\]")


@dataclass(frozen=True)
class ShortRun:
    """How a short run went.

    Attributes:
        outcome: `done`: it came to its own end; `going`: it still trained when its time was over; `failed`.
        failure: Why it failed, with the lines of code and log that explain it.
        fault: Whose that is, one of `protocol.FAULTS`; empty without a failure.
        steps: The last step that the code reported, or that its output names; 0 where it named none.
        step_s: Seconds a step; None where steps can't be told.
        loss: The last one reported; None for code without the contract.
        peak_memory_mb: The most memory that was resident.
        memory_limit_mb: What it may use.
        weights_mb: The size of the submitted model; None where none was submitted.
        weights_limit_mb: What a submitted model may have; None for code without the contract.
        startup_s: Seconds before start(), or before the first line of output of code without the contract. None: it never came there.
        metric: What the code says of the lab's metric; None where it said nothing of it, or where the lab measures it.
        refused: Lines of the output that tell of something the sandbox didn't allow, in a run that went on.
        sandbox: How far the run was confined.
        log: The end of its output.
    """

    outcome: Literal["done", "going", "failed"]
    failure: Failure | None = None
    fault: str = ""
    steps: int = 0
    step_s: float | None = None
    loss: float | None = None
    peak_memory_mb: float = 0.0
    memory_limit_mb: int = 0
    weights_mb: float | None = None
    weights_limit_mb: int | None = None
    startup_s: float | None = None
    metric: Reading | None = None
    refused: list[str] = field(default_factory=list)
    sandbox: str = ""
    log: str = ""


async def short_run(
    settings: Settings, state: Path, code: Mapping[str, bytes], seconds: float = 5.0, *, most_s: float = 60.0, nice: bool = False
) -> ShortRun:
    """Train code for a few seconds. Cancelling the call ends the run.

    Args:
        settings: The lab's settings, for a training on this machine.
        state: The lab's state folder.
        code: The files of a commit or of a folder, by path: what is editable, and what `[training] files` names.
        seconds: Its budget, of the profile's clock.
        most_s: Wall seconds after which it is ended, wherever it is. Preparing the data, which happens once, is not in them.
        nice: Whether everything else on the machine goes first.

    Raises:
        ComputeError: It can't be run here, or something outside of it killed it.
    """
    if settings.compute.backend != "local":
        raise ComputeError(f"A short run takes a training on this machine; this lab trains on {settings.compute.backend}.")
    async with _compute(settings, state, nice) as compute, _folder(state) as folder:
        spec = replace(spec_of(settings.launch(), ID, await compute.prepare(), device=settings.device), budget_s=seconds)
        job = Job(ID, 1, folder, spec, dict(code))
        await compute.submit(job)
        watch = _Watch(folder / protocol.LOG)
        try:
            observation = await _until_ended(compute, job, watch, most_s)
        except BaseException:
            await asyncio.shield(_end(compute, job))
            raise
        if observation.never_started:
            return ShortRun("going")
        if observation.result is None:
            raise ComputeError(f"The short run ended without a result: something outside of it killed it. {observation.reason}".strip())
        return await asyncio.to_thread(_read, observation.result, spec, folder, watch)


@contextlib.asynccontextmanager
async def _compute(settings: Settings, state: Path, nice: bool) -> AsyncIterator[LocalCompute]:
    niceness = shutil.which("nice") if nice else None
    command = (*((niceness, "-n", "19") if niceness else ()), *LAUNCHER, "--stage", "train")
    compute = open_local(settings, state, StatePaths(state).runner_log, command, warm=False)
    try:
        yield compute
    finally:
        await compute.close()


@contextlib.asynccontextmanager
async def _folder(state: Path) -> AsyncIterator[Path]:
    """Make a run directory for the time of a run, and remove what killed processes left."""
    above = StatePaths(state).short_runs
    above.mkdir(mode=0o700, exist_ok=True)
    for left in above.iterdir():
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - _KEPT_S:
                shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=above))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _until_ended(compute: LocalCompute, job: Job, watch: "_Watch", most_s: float) -> Observation:
    began = time.monotonic()
    while (observation := await compute.observe(job)).phase not in ("ended", "lost"):
        if time.monotonic() > began + most_s:
            return await _end(compute, job)
        watch.look()
        await asyncio.sleep(compute.poll_s)
    return observation


async def _end(compute: LocalCompute, job: Job) -> Observation:
    """End a run and wait until it has."""
    while await compute.adopt(job):
        if (observation := await compute.observe(job)).phase == "ended":
            return observation
        await compute.cancel(job)
        await asyncio.sleep(compute.poll_s)
    return await compute.observe(job)


class _Watch:
    """Reads steps and their times out of what code prints, as it prints it."""

    def __init__(self, log: Path) -> None:
        self._log, self._size = log, 0
        self._began = time.monotonic()
        self._named: list[tuple[float, int]] = []  # when, and which step: the first and the last
        self.first_line_s: float | None = None

    def look(self) -> None:
        """Look whether there is something new."""
        with contextlib.suppress(OSError):
            if (size := self._log.stat().st_size) == self._size:
                return
            self._size, now = size, time.monotonic()
            if self.first_line_s is None:
                self.first_line_s = now - self._began
            if steps := _STEP.findall(read_tail(self._log)):
                self._named = [*self._named[:1], (now, int(steps[-1]))]

    @property
    def steps(self) -> int:
        """The last step that the output named."""
        return self._named[-1][1] if self._named else 0

    @property
    def step_s(self) -> float | None:
        """Seconds a step, where the output named two."""
        if len(self._named) < 2 or self._named[1][1] <= self._named[0][1]:
            return None
        (began, first), (ended, last) = self._named
        return (ended - began) / (last - first)


def _read(result: Result, spec: Spec, folder: Path, watch: _Watch) -> ShortRun:
    """Put together what a run left."""
    watch.look()
    log = read_tail(folder / protocol.LOG, _LOG)
    still = result.state == "cancelled" or (result.state == "timed_out" and result.ended_in != "starting")
    failed = not still and result.failure is not None
    limits = profiles.find(spec.profile, spec.own_text)
    if spec.metric:
        limits = profiles.for_scripts(limits, spec.memory_mb)
    weights = folder / protocol.SUBMISSION / client.WEIGHTS
    losses = [loss for _, loss in result.curve]
    return ShortRun(
        outcome="failed" if failed else "going" if still else "done",
        failure=Failure.model_validate(result.failure) if failed else None,
        fault=(result.fault or "code") if failed else "",
        steps=result.steps or watch.steps,
        step_s=result.wall_s / result.steps if result.steps and result.wall_s else watch.step_s,
        loss=losses[-1] if losses else None,
        peak_memory_mb=result.peak_memory_mb,
        memory_limit_mb=limits.memory_mb,
        weights_mb=weights.stat().st_size / 2**20 if weights.exists() else None,
        weights_limit_mb=None if spec.metric else limits.checkpoint_mb,
        startup_s=watch.first_line_s if spec.metric else result.timings.get("startup_s"),
        metric=_metric(result, spec, folder),
        refused=[line.strip()[:300] for line in log.splitlines() if _REFUSED.search(line)][:5] if not failed else [],
        sandbox=result.sandbox,
        log=log,
    )


def _metric(result: Result, spec: Spec, folder: Path) -> Reading | None:
    """Return what code without the contract says of its metric, as far as it came."""
    if spec.scoring:
        return None
    if result.state == "finished":
        return Reading(result.reported_bpb, "", "")
    if not spec.metric or spec.source:
        return None
    reader = OutputReader(NamedMetric(spec.metric, spec.unit, spec.pattern))
    with contextlib.suppress(OSError):
        reader.feed((folder / protocol.LOG).read_bytes())
    reader.end()
    return reader.metric.last
