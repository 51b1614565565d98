"""Takes one training sandbox from the intent to its result, whatever happens to Modal or to this process meanwhile.

A `SandboxJob` works in the background and writes what it learns into the job's local folder: log, loss curve and progress as they
come, the result in the end. So looking at a job reads memory or that folder, and only a `SandboxJob` calls the service.

A job moves through these states. `TRANSITIONS` allows these moves and no others:

    creating   -> following     the sandbox was made, or one of its name runs already
    creating   -> collecting    the job was cancelled, or the sandbox ended before it was seen to run
    finding    -> following     the sandbox that an earlier process made runs
    finding    -> collecting    no sandbox runs, and none ever will
    following  -> collecting    the sandbox ended
    collecting -> scoring       the training submitted a model, or what the owner's scorer takes
    collecting -> ended         there is another result, as of a script that no scorer measures, or one that can't be read; or it was cancelled
    collecting -> lost          there is no result
    scoring    -> ended         the model has its score, scoring it failed, or the job was cancelled

From each of these, three more moves are possible; ended, lost and refused are final:

    any        -> finding       this machine's disk is full; the move comes before a pause
    any        -> refused       Modal understood a request and said no
    any        -> lost          this program failed

The result file on the runs volume decides how a job ended, else the same result on stdout; the exit code never does. A sandbox that
ended without a result is lost. One that can't be found is forbidden first, by a mark in its folder that its entry point obeys, and
looked for again after that. So a creation that was still on its way can't run unseen.

Modal's client finds ended sandboxes of this kind (v1, those with a GPU) by id only. The id that the container left is what lets
`ModalCompute.cost` ask for the provider's number; an attempt that left none keeps its estimate (`account.py`).
"""

import asyncio
import contextlib
import errno
import json
import logging
import time
from collections.abc import Coroutine, Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Any, Literal, TypeVar

from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.modal import context as modal_context
from autoresearch_mcp.server.compute.modal import own_code
from autoresearch_mcp.server.compute.modal.account import SandboxAccount
from autoresearch_mcp.server.compute.modal.client import EndedEarly, ModalAway, ModalRefused, Mount, NameTaken, Sandbox
from autoresearch_mcp.server.compute.modal.context import (
    BOOT_S,
    ModalContext,
    is_away,
    read_committed,
    results_folder,
    retry_until_available,
    sandbox_name,
)
from autoresearch_mcp.server.compute.modal.deployment import CODE, COMPILE_CACHE, OUT, TRAINING
from autoresearch_mcp.server.compute.modal.output import record_output, write_progress
from autoresearch_mcp.server.compute.modal.scoring import Scoring
from autoresearch_mcp.server.compute.stopping import stop
from autoresearch_mcp.server.devices import START_LIMIT_S
from autoresearch_mcp.server.retry import Backoff, retry_async
from autoresearch_mcp.trainer import profiles, protocol
from autoresearch_mcp.trainer.protocol import Result

LOOK_S = 15.0  # between two polls of a sandbox that says nothing
SPARE_MB = 4096  # of memory, beside what a script may use
SANDBOX = "sandbox.json"  # {"id"} of the job's sandbox, in its local folder

_T = TypeVar("_T")
_UNSCORED = {"kind": "killed", "message": "the sandbox that scored the model died each time, also with this model alone.", "advice": ""}
_log = logging.getLogger("autoresearch.modal")


class State(StrEnum):
    """Where a job is on its way; see the module's table."""

    CREATING = "creating"
    FINDING = "finding"
    FOLLOWING = "following"
    COLLECTING = "collecting"
    SCORING = "scoring"
    ENDED = "ended"
    LOST = "lost"
    REFUSED = "refused"


_ALWAYS = {State.FINDING, State.REFUSED, State.LOST}
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.CREATING: frozenset({State.FOLLOWING, State.COLLECTING} | _ALWAYS),
    State.FINDING: frozenset({State.FOLLOWING, State.COLLECTING} | _ALWAYS),
    State.FOLLOWING: frozenset({State.COLLECTING} | _ALWAYS),
    State.COLLECTING: frozenset({State.SCORING, State.ENDED} | _ALWAYS),
    State.SCORING: frozenset({State.ENDED} | _ALWAYS),
    State.ENDED: frozenset(),
    State.LOST: frozenset(),
    State.REFUSED: frozenset(),
}


class SandboxJob:
    """One attempt of one experiment on Modal; it starts to work when it is made.

    Args:
        context: The lab on Modal.
        scoring: Scores what the training submits.
        job: What to train.
        fresh: Whether no earlier process can have made a sandbox for it.

    Attributes:
        state: Where it is on its way.
        located: Set once it is known whether there is, or was, a sandbox. If there is none and won't be, `state` is `lost` then.
        task: The work in the background.
    """

    def __init__(self, context: ModalContext, scoring: Scoring, job: Job, fresh: bool) -> None:
        self._context, self._service, self._scoring, self._job, self._fresh = context, context.service, scoring, job, fresh
        self._name = sandbox_name(job)
        self._account = SandboxAccount(_limit_s(job.spec))
        self._cancelled = asyncio.Event()
        self._id: str | None = None  # of the sandbox, once it is known to run
        self._printed: dict[str, Any] | None = None  # the result, as stdout has it
        self._result: Result | None = None
        self._heard_out = False  # the sandbox's stdout was read to its end
        self._asked = False  # for a sandbox, so that there may be one whatever the answer was
        self._observation = Observation("starting", device_s=0.0)
        if not fresh:
            self._show(protocol.read_json(job.directory / protocol.PROGRESS) or {})  # as the process before this one knew it
        self._steps = {
            State.CREATING: self._create,
            State.FINDING: self._find,
            State.FOLLOWING: self._follow,
            State.COLLECTING: self._collect,
            State.SCORING: self._score,
        }
        self.state = State.CREATING if fresh else State.FINDING
        self.located = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    def cancel(self) -> None:
        """Ask the job to end. Repeating it is harmless."""
        self._cancelled.set()

    @property
    def device(self) -> str:
        """The kind of device that the job runs on."""
        return self._job.spec.device

    @property
    def training(self) -> bool:
        """Whether its sandbox runs, or will, so that it may yet submit a model."""
        return self._observation.phase in ("starting", "running")

    @property
    def scoring(self) -> bool:
        """Whether its model waits for its score, or gets it."""
        return self._observation.phase == "scoring"

    def observe(self) -> Observation:
        """Return how the job is, as far as is known here."""
        if self._observation.phase == "running":
            return replace(self._observation, device_s=self._account.device_s())
        return self._observation

    # From state to state

    async def _run(self) -> None:
        try:
            await retry_async(self._advance, _disk_is_full, modal_context.RETRY_S, self._look_again)
        except protocol.ResultError as error:
            _log.error("%s left a result that can't be read: %s", self._name, error)
            self._observation = Observation("ended", reason=str(error), device_s=self._account.device_s())
            with contextlib.suppress(OSError):  # then it counts as lost, and runs again
                protocol.write_json(self._job.directory / protocol.RESULT, {protocol.UNREADABLE: str(error)})
            self._move(State.ENDED)
        except ModalRefused as error:
            self._observation = Observation("refused", reason=str(error), device_s=self._account.device_s())
            self._move(State.REFUSED)
        except Exception:
            _log.exception("the job %s failed", self._name)
            self._observation = Observation("lost", device_s=self._account.device_s())
            self._move(State.LOST)
        finally:
            self.located.set()

    async def _advance(self) -> None:
        while (step := self._steps.get(self.state)) is not None:
            self._move(await step())

    def _move(self, state: State) -> None:
        assert state in TRANSITIONS[self.state], f"{self.state} -> {state}"
        _log.debug("%s: %s -> %s", self._name, self.state, state)
        self.state = state

    def _look_again(self, error: BaseException, wait_s: float) -> None:
        _log.warning("%s runs on, and is looked for again in %.0f s: %s", self._name, wait_s, error)
        self._move(State.FINDING)

    async def _until_cancelled(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """Return the work's result; None if the job is cancelled first, which cancels the work too."""
        working = asyncio.create_task(work)
        cancelled = asyncio.create_task(self._cancelled.wait())
        try:
            await asyncio.wait({working, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            cancelled.cancel()
            if not working.done():
                await stop([working])  # nobody needs it any more

    # Creating and finding

    async def _create(self) -> State:
        def log(error: BaseException, wait_s: float) -> None:
            _log.warning("%s is not placed yet, next try in %.0f s: %s", self._name, wait_s, error)

        self._id = await retry_async(self._try_to_create, is_away, modal_context.RETRY_S, log, wake=self._cancelled)
        return State.COLLECTING if self._id is None else State.FOLLOWING

    async def _try_to_create(self) -> str | None:
        """Return the id of the sandbox, made or adopted; None if the job is cancelled, or over already."""
        if self._cancelled.is_set():
            return await self._look()
        if self._asked and await self._context.read_json(self._job, protocol.RESULT) is not None:
            return None  # what an unanswered request made has ended since
        self._asked, asked_at = True, time.time()
        try:
            # Cancelling the call ends a sandbox that waits for its place
            id = await self._until_cancelled(self._service.create(training_sandbox(self._context, self._job)))
        except EndedEarly:
            # It printed nothing. How long it waited for its place, at no charge, is unknown
            held_s = min(max(BOOT_S, time.time() - asked_at), START_LIMIT_S)
            self._account.place(time.time() - held_s)
            self._heard_out = True
            return None
        except NameTaken:
            id = None
        except ModalAway:  # away or full; it may have been made all the same
            if (id := await self._look()) is None:
                raise
        return id if id is not None else await self._look()

    async def _find(self) -> State:
        """Look for a sandbox that an earlier process may have made, and forbid one that can't be found."""
        self._id = await self._look()
        if self._id is None and await self._context.read_json(self._job, protocol.RESULT) is None:
            path = f"{results_folder(self._job)}/{protocol.ABANDONED}"
            await retry_until_available(lambda: self._service.write(self._context.deployment.runs, path, b""), "abandoning")
            self._id = await self._look()
        return State.COLLECTING if self._id is None else State.FOLLOWING

    async def _look(self) -> str | None:
        """Return the id of the running sandbox, looked for by name, then by tags; None if there is none."""
        if (id := await retry_until_available(lambda: self._service.find(self._name), "finding")) is not None:
            return id
        running = await retry_until_available(lambda: self._service.running(_tags(self._context, self._job)), "listing")
        return next(iter(running), None)

    # Following

    async def _follow(self) -> State:
        """Listen to the sandbox until it has ended, and end it when the job is cancelled."""
        assert self._id is not None
        id = self._id
        self.located.set()
        self._account.place(time.time())
        protocol.write_json(self._job.directory / SANDBOX, {"id": id})
        listening = asyncio.create_task(self._listen(id))
        cancelled = asyncio.create_task(self._cancelled.wait())
        terminated, backoff = False, Backoff(modal_context.RETRY_S)
        try:
            while True:
                awaited = {listening} if terminated or listening.done() else {listening, cancelled}
                await asyncio.wait(awaited, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if self._cancelled.is_set() and not terminated:
                    await retry_until_available(lambda: self._service.terminate(id), "terminating")
                    terminated = True
                if await retry_until_available(lambda: self._service.poll(id), "polling") is not None:
                    await asyncio.wait({listening}, timeout=LOOK_S)
                    break
                if listening.done():
                    if listening.exception() is not None:
                        _log.info("%s is listened to again: %s", self._name, listening.exception())
                    await asyncio.sleep(backoff.failed())
                    listening = asyncio.create_task(self._listen(id))
        finally:
            cancelled.cancel()
            await stop([listening])  # how it ended doesn't count, only what it heard
        self._service.forget(id)
        return State.COLLECTING

    async def _listen(self, id: str) -> None:
        await record_output(self._service.lines(id), self._job.directory, self._hear)
        self._heard_out = True

    def _hear(self, message: dict[str, Any]) -> None:
        self._account.learn(message)
        if "progress" in message:
            self._show(message["progress"])
        if isinstance(message.get("result"), dict):
            self._printed = message["result"]

    def _show(self, progress: dict[str, Any]) -> None:
        used_s = float(progress.get("used_s", 0.0))
        phase: Literal["starting", "running"] = "running" if progress.get("phase") == "running" or used_s else "starting"
        if phase == "running" or self._observation.phase == "starting":
            self._observation = Observation(phase, used_s=used_s, share=min(1.0, used_s / self._job.spec.budget_s))
        write_progress(self._job.directory, {**progress, "phase": phase})

    # Collecting and scoring

    async def _collect(self) -> State:
        """Read what the sandbox left."""
        self._account.close()
        await self._read_account()
        self._result = await self._await_result()
        if self._result is not None:
            self.located.set()
            await self._read_account()
        await self._fetch_log()
        if self._result is not None and self._result.state == protocol.SUBMITTED and not self._cancelled.is_set():
            return State.SCORING
        return await self._conclude(self._result, self._account.device_s())

    async def _read_account(self) -> None:
        """Read what a container wrote of itself, if it was not heard to the end."""
        if not self._account.ended:
            self._account.learn(await self._context.read_json(self._job, protocol.BEGUN) or {})
        if (id := self._account.sandbox) and not (self._job.directory / SANDBOX).exists():
            protocol.write_json(self._job.directory / SANDBOX, {"id": id})

    async def _await_result(self) -> Result | None:
        """Return the result file, as late as the volume shows it; else what stdout brought.

        A sandbox that was heard to die without a result leaves none to wait for.

        Raises:
            ResultError: There is one that can't be read.
        """
        has_run = self._id is not None or self._fresh or self._account.started
        may_come = has_run and not self._cancelled.is_set() and (self._account.ended or not self._heard_out)

        async def read() -> dict[str, Any] | None:
            return await self._context.read_json(self._job, protocol.RESULT) or self._printed

        value = await read_committed(read, modal_context.COMMIT_S if may_come else 0.0)
        return protocol.parse_result(value) if value is not None else None

    async def _fetch_log(self) -> None:
        """Fetch the whole log as the launcher kept it, if stdout brought none: Modal keeps stdout for a limited time."""
        log = self._job.directory / protocol.LOG
        if log.exists() and log.stat().st_size:
            return
        for file in (protocol.LOG, protocol.CURVE):
            if data := await self._context.read(self._job, file):
                (self._job.directory / file).write_bytes(data)

    async def _score(self) -> State:
        assert self._result is not None
        device_s = self._account.device_s()
        self._observation = Observation("scoring", used_s=self._observation.used_s, share=1.0, device_s=device_s)
        result = self._result
        if (scored := await self._until_cancelled(self._scoring.score(self._job))) is not None:
            completed, seconds = scored
            device_s += seconds
            result = completed or replace(result, state="crashed", failure=_UNSCORED, fault="code", ended_in="scoring")
        return await self._conclude(result, device_s)

    async def _conclude(self, result: Result | None, device_s: float) -> State:
        if self._cancelled.is_set() and (result is None or result.state != "finished"):  # whatever it died of on the way
            blank = Result("cancelled", seed=self._job.spec.seed, device=self._job.spec.device)
            result = replace(result or blank, state="cancelled", failure=None)
        if result is None:
            self._observation = Observation("lost", device_s=device_s, never_started=not (self._fresh or self._account.started))
            return State.LOST
        await asyncio.to_thread(protocol.write_json, self._job.directory / protocol.RESULT, replace(result, device_s=round(device_s, 1)))
        self._observation = Observation("ended", result=result, device_s=device_s)
        return State.ENDED


def training_sandbox(context: ModalContext, job: Job) -> Sandbox:
    """Return the sandbox to ask for: no network, what it trains on and the compile cache read-only, one folder to write to."""
    spec, deployment = job.spec, context.deployment
    mounts = {OUT: Mount(deployment.runs, sub_path=f"/{results_folder(job)}")}
    if spec.metric:
        spec, mounts = own_code.placed(spec, deployment.given), mounts | own_code.for_training(deployment.given)
    else:
        mounts[TRAINING] = Mount(deployment.training, read_only=True)
    if volume := deployment.compile_caches.get(spec.device):
        spec = replace(spec, compile_cache=f"{COMPILE_CACHE}/{protocol.COMPILE_CACHE}")
        mounts[COMPILE_CACHE] = Mount(volume, read_only=True)
    return Sandbox(
        name=sandbox_name(job),
        argv=(*context.command, "train", json.dumps(asdict(spec)), CODE, OUT),
        tags=_tags(context, job),
        image=deployment.image,
        timeout_s=_limit_s(spec),
        volumes=mounts,
        gpu=context.gpus[spec.device],
        cpu=(max(2.0, spec.threads), max(8.0, spec.threads)),
        memory=(16_384, max(65_536, spec.memory_mb + SPARE_MB)),
        folder=job.directory / protocol.CODE,
        mounted=CODE,
    )


def _tags(context: ModalContext, job: Job) -> dict[str, str]:
    return {"lab": context.deployment.lab, "stage": "train", "experiment": job.id, "attempt": str(job.attempt)}


def _limit_s(spec: protocol.Spec) -> int:
    """Return the time limit of a training sandbox, in seconds."""
    limits = profiles.find(spec.profile, spec.own_text)
    limits = profiles.for_scripts(limits) if spec.metric else limits
    return int(profiles.max_wall_s(limits, spec.budget_s) - limits.score_s + START_LIMIT_S)


def _disk_is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
