"""Scores what trainings submitted, several in one trusted sandbox, which alone mounts validation and test data, or the owner's answers.

A second sandbox is needed because the trainer's must never hold the validation text. Shipping logits out of it is no way either: 5
million positions of 8192 logits in bfloat16 are 82 GB an experiment. The second one costs, in planned GPU seconds on an H100
(tests/bench/gpu_budget.py prints them): B = 10 s to boot and import torch, and M = 4 s for each model to load and answer. Model
servers compile nothing (the stock build_model doesn't), so they need no compile cache. One model alone adds 14 s to an experiment;
k models in one sandbox add B/k + M:

    k           1     2     4     8    16
    seconds  14.0   9.0   6.5   5.3   4.6
    share    91.0% 92.4% 93.1% 93.5% 93.7%   of an experiment at 300 s that trains, with 16 s around its training

So batches of 4 meet the aim of 92% with room, and more gains little. These numbers are planned, for trainings that restore a compile
cache (`compile_cache.py`); a training that compiles for itself leaves 86%. Nothing was measured on a GPU.

A batch starts when 4 models wait, when the oldest has waited `PATIENCE_S`, or when nothing trains that it could wait for. Waiting
costs no GPU, only the slot in the lab's queue.

A model that takes a batch down with it (memory, a crash of the driver) is found by scoring each of that batch alone. One that fails
alone too, twice, ends as `killed`. Scores from before the crash stand: each is written on its own.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.compute.base import Job
from autoresearch_mcp.server.compute.modal import context as modal_context
from autoresearch_mcp.server.compute.modal import own_code
from autoresearch_mcp.server.compute.modal.client import EndedEarly, ModalAway, Mount, NameTaken, Sandbox
from autoresearch_mcp.server.compute.modal.context import (
    BOOT_S,
    ModalContext,
    is_away,
    read_committed,
    results_folder,
    retry_until_available,
)
from autoresearch_mcp.server.compute.modal.deployment import EVALUATION, RUNS
from autoresearch_mcp.server.compute.stopping import stop
from autoresearch_mcp.server.devices import SCORER_LIMIT_S
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.retry import retry_async
from autoresearch_mcp.trainer import profiles, protocol, remote
from autoresearch_mcp.trainer.protocol import Result

BATCH = 4
PATIENCE_S = 30.0
TRIES_ALONE = 2
# In a job's local folder. {"name"}: the sandbox that scores it, written before that is made. {"paid"}: the ids of all sandboxes that
# scored it, with how many jobs each scored. {"used_s"}: the device seconds of those before the last.
BATCH_FILE = "scoring.json"
LOOK_S = 5.0

_log = logging.getLogger("autoresearch.modal")
Scored = tuple[Result | None, float]
"""A completed result, and the device seconds of its share in the scoring."""


@dataclass(eq=False)
class _Wait:
    job: Job
    alone: bool
    used_s: float
    since: float = field(default_factory=time.monotonic)
    scored: "asyncio.Future[Scored]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Scoring:
    """Scores submitted models in batches, one batch at a time for each kind of device.

    Args:
        context: The lab on Modal.
        more_to_come: Whether something trains that may yet submit a model.
        patience_s: How long a model waits for others to be scored with.
    """

    def __init__(self, context: ModalContext, more_to_come: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        self._context, self._service, self._more, self._patience_s = context, context.service, more_to_come, patience_s
        self._waiting: list[_Wait] = []
        self._batches: dict[str, asyncio.Task[None]] = {}  # by device: one at a time

    async def score(self, job: Job) -> Scored:
        """Score a job that submitted a model.

        Returns:
            The completed result, or None if each of its sandboxes died; and the device seconds of its share in them.

        Raises:
            ResultError: There is a result that can't be read.
            ModalRefused: Modal does not make the sandbox.
        """
        result, used_s = await self._earlier(job)
        if result is not None:
            return result, used_s
        for attempt in range(1 + TRIES_ALONE):
            wait = _Wait(job, attempt > 0, used_s)
            self._waiting.append(wait)
            self._serve(job.spec.device)
            try:
                result, seconds = await wait.scored
            finally:
                if wait in self._waiting:
                    self._waiting.remove(wait)
            used_s += seconds
            if result is not None:
                return result, used_s
        return None, used_s

    async def close(self) -> None:
        """Stop following. Scorers run on, and another process finds what they wrote."""
        await stop(self._batches.values())

    async def _earlier(self, job: Job) -> Scored:
        """Return the score that a sandbox of an earlier process gave, or is about to, and what scoring has cost so far."""
        batch = protocol.read_json(job.directory / BATCH_FILE)
        if batch is None:
            return None, 0.0
        while (result := await self._scored(job)) is None:
            if await self._find(str(batch["name"])) is None:
                result = await self._scored(job)
                break
            await asyncio.sleep(LOOK_S)
        used_s = float(batch.get("used_s", 0.0))
        if (account := await self._context.read_json(job, remote.SCORER)) is not None:
            paid = dict(scorers(job.directory)) | ({str(account["sandbox"]): account["jobs"]} if account["sandbox"] else {})
            protocol.write_json(job.directory / BATCH_FILE, {**batch, "paid": list(paid.items())})
            most = min(max(0.0, time.time() - account["begun"]), _limit_s(job, account["jobs"]))
            used_s += BOOT_S / account["jobs"] + float(account.get("seconds", most / account["jobs"]))
        return result, used_s

    def _serve(self, device: str) -> None:
        """Make sure that somebody scores what waits for this kind of device."""
        running = self._batches.get(device)
        if running is None or running.done():
            self._batches[device] = asyncio.create_task(self._serve_all(device))

    async def _serve_all(self, device: str) -> None:
        while waiting := [wait for wait in self._waiting if wait.job.spec.device == device]:
            if not (batch := self._due(waiting)):
                await asyncio.sleep(modal_context.RETRY_S[0])
                continue
            for wait in batch:
                self._waiting.remove(wait)
            try:
                await self._score_batch(batch)
            except Exception as error:
                for wait in batch:
                    if not wait.scored.done():
                        wait.scored.set_exception(error)

    def _due(self, waiting: list[_Wait]) -> list[_Wait]:
        """Return those to score together now; none while it pays to wait for more."""
        if alone := [wait for wait in waiting if wait.alone]:
            return alone[:1]
        if len(waiting) < BATCH and self._more() and time.monotonic() - waiting[0].since < self._patience_s:
            return []
        return waiting[:BATCH]

    async def _score_batch(self, batch: list[_Wait]) -> None:
        name = new_id("s")
        for wait in batch:
            self._note(wait, name, scorers(wait.job.directory))
        seconds = BOOT_S
        try:
            id = await self._create(self._sandbox(name, batch))
            if id is not None:
                placed_at = time.monotonic()
                for wait in batch:
                    self._note(wait, name, [*scorers(wait.job.directory), (id, len(batch))])
                billed_s = await self._listen(id, {results_folder(wait.job): wait for wait in batch})
                while await retry_until_available(lambda: self._service.poll(id), "polling a scorer") is None:  # noqa: ASYNC110
                    await asyncio.sleep(modal_context.RETRY_S[0])
                self._service.forget(id)
                seconds = min(time.monotonic() - placed_at, _limit_s(batch[0].job, len(batch))) - billed_s
        except EndedEarly as error:
            _log.warning("the scorer %s did not start: %s", name, error)
        unheard = [wait for wait in batch if not wait.scored.done()]
        for wait in unheard:  # they pay what the others were not billed
            await self._hand_out(wait, self._scored(wait.job), max(0.0, seconds) / len(unheard))

    @staticmethod
    async def _hand_out(wait: _Wait, result: Coroutine[Any, Any, Result | None], seconds: float) -> None:
        """Give a job its result, or the reason why it can't be read: the others of its batch are no worse off."""
        try:
            wait.scored.set_result((await result, seconds))
        except protocol.ResultError as error:
            wait.scored.set_exception(error)

    @staticmethod
    def _note(wait: _Wait, name: str, paid: list[tuple[str, int]]) -> None:
        protocol.write_json(wait.job.directory / BATCH_FILE, {"name": name, "paid": paid, "used_s": wait.used_s})

    async def _create(self, sandbox: Sandbox) -> str | None:
        """Return the id of the scorer, made or found; None if it has ended already.

        Raises:
            EndedEarly: It ended before it was seen to run.
        """

        async def attempt() -> str | None:
            try:
                return await self._service.create(sandbox)
            except NameTaken:  # by an earlier try, of which the answer was lost
                return await self._find(sandbox.name)
            except ModalAway:
                if (id := await self._find(sandbox.name)) is None:
                    raise
                return id

        def log(error: BaseException, wait_s: float) -> None:
            _log.warning("the scorer %s is not placed yet, next try in %.0f s: %s", sandbox.name, wait_s, error)

        return await retry_async(attempt, is_away, modal_context.RETRY_S, log)

    async def _find(self, name: str) -> str | None:
        """Return the id of the running scorer of this name, or None. Waits out an outage."""
        return await retry_until_available(lambda: self._service.find(name), "finding a scorer")

    def _sandbox(self, name: str, batch: list[_Wait]) -> Sandbox:
        deployment, spec = self._context.deployment, batch[0].job.spec
        mounts, more = own_code.for_scoring(deployment.given) if spec.metric else ({EVALUATION: Mount(deployment.evaluation, True)}, [])
        return Sandbox(
            name=name,
            argv=(*self._context.command, "score", EVALUATION, *(f"{RUNS}/{results_folder(wait.job)}" for wait in batch), *more),
            tags={"lab": deployment.lab, "stage": "score"},
            image=deployment.image,
            timeout_s=_limit_s(batch[0].job, len(batch)),
            volumes={**mounts, RUNS: Mount(deployment.runs)},
            gpu=None if spec.scoring and spec.scoring.kind == "predictions" else self._context.gpus[spec.device],
            cpu=(2.0, 8.0),
            memory=(16_384, 65_536),
        )

    async def _listen(self, id: str, waits: dict[str, _Wait]) -> float:
        """Hand out scores as they are made, each with its seconds and its share of the boot. What is missed here is on the volume.

        Returns:
            The sum of the seconds that were handed out.
        """
        billed_s = 0.0
        try:
            async for line in self._service.lines(id):
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                wait = waits.get(message.get("scored", ""))
                if wait is None or wait.scored.done():
                    continue
                value = message.get("result") or {}
                if value.get("state") not in (None, protocol.SUBMITTED):
                    seconds = float(message["seconds"]) + BOOT_S / len(waits)
                    await self._hand_out(wait, self._complete(wait.job, value), seconds)
                    billed_s += seconds
        except ModalAway as error:
            _log.info("the scorer is no longer listened to: %s", error)
        return billed_s

    async def _scored(self, job: Job) -> Result | None:
        """Read from the volume the result that a scorer completed, if there is one.

        Raises:
            protocol.ResultError: there is one that can't be read.
        """
        value = await self._context.read_json(job, remote.SCORED)
        return await self._complete(job, value) if value is not None else None

    async def _complete(self, job: Job, value: dict[str, Any]) -> Result:
        """Parse a completed result, and bring what only the owner may see into the job's local folder."""
        result = protocol.parse_result(value)
        if result.state != "finished":
            told = await self._context.read_json(job, protocol.HIDDEN) if result.barred or job.spec.scoring else None
            if finding := (told or {}).get(protocol.FINDING):
                await asyncio.to_thread(protocol.write_finding, job.directory, str(finding))
            return result

        async def read() -> float | None:
            return protocol.hidden_score(await self._context.read_json(job, protocol.HIDDEN))

        hidden = protocol.hidden_score(value)  # images of before version 0.2 put it there
        if hidden is None:
            hidden = await read_committed(read, modal_context.COMMIT_S)
        if hidden is None:
            _log.warning("%s has no score on the hidden split: the gate will ask for another replicate", results_folder(job))
        else:
            await asyncio.to_thread(protocol.write_hidden, job.directory, hidden)
        return result


def _limit_s(job: Job, jobs: int) -> int:
    spec = job.spec
    each_s = spec.scoring.longest_s if spec.scoring else profiles.find(spec.profile, spec.own_text).score_s
    return int(jobs * (each_s + 10) + SCORER_LIMIT_S)


def scorers(directory: Path) -> list[tuple[str, int]]:
    """List the sandboxes that scored the job of this directory, and how many jobs shared each."""
    batch = protocol.read_json(directory / BATCH_FILE) or {}
    return [(str(id), int(jobs)) for id, jobs in batch.get("paid", [])]
