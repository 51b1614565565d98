"""Takes one training sandbox from the intent to its result, whatever happens to Modal or to this process meanwhile.

A keeper works in the background and writes what it learns into the job's local folder: log, loss curve and progress as they come,
the result in the end. So whoever asks how the job is reads memory or that folder, and the service is asked by keepers only.

What decides, in this order: the result file on the runs volume (else the same result on stdout), never the exit code. A sandbox
that ended without one is lost; one that nobody can find is forbidden first, by a mark in its folder that its entry point obeys,
and looked for again after that, so that a creation that was still on its way can't run unseen.

What an attempt is billed at first never waits for the service: the container says on stdout, and writes on the volume, who it is and when
it began and ended. One that left no end is billed up to now, or to its time limit; one that never began but was placed, from its placement
on. Modal's client finds ended sandboxes of this kind (v1, those with a GPU) by id only, so the id that the container left is what lets
`ModalCompute.cost` ask for the provider's number; an attempt that left none keeps its estimate.
"""

import asyncio
import contextlib
import errno
import json
import logging
import time
from collections.abc import Coroutine
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.modal.client import EndedEarly, ModalAway, ModalRefused, Mount, NameTaken, Sandbox
from autoresearch_mcp.server.compute.modal.context import BOOT_S, RETRY_S, ModalContext, folder, name, retry_until_available
from autoresearch_mcp.server.compute.modal.deployment import CODE, COMPILE_CACHE, OUT, TRAINING
from autoresearch_mcp.server.compute.modal.scoring import COMMIT_S, Scoring
from autoresearch_mcp.server.devices import START_LIMIT_S
from autoresearch_mcp.trainer import prepare, protocol

LOOK_S = 15.0  # between two polls of a sandbox that says nothing
LOG_BYTES = 6 << 20  # the launcher caps what it sends; this caps what is kept of what came
SANDBOX = "sandbox.json"  # {"id"} of the job's sandbox, in its local folder

_UNSCORED = {"kind": "killed", "message": "the sandbox that scored the model died each time, also with this model alone.", "advice": ""}
_FULL = (errno.ENOSPC, errno.EDQUOT)  # of this machine's disk
_log = logging.getLogger("autoresearch.modal")


class Keeper:
    """Attributes:
    seen: how the job is, as far as is known.
    found: set once it is known whether there is, or was, a sandbox; `seen` is `lost` then if there is none and won't be.
    """

    def __init__(self, context: ModalContext, scoring: Scoring, job: Job, fresh: bool) -> None:
        self._context, self._service, self._scoring, self._job, self._fresh = context, context.service, scoring, job, fresh
        self._cancelled = asyncio.Event()
        self._said: dict[str, Any] | None = None
        self._account: dict[str, Any] = {}  # what the container says of itself: sandbox, begun, ended
        self._placed_at = self._over_at = 0.0  # by this machine's clock
        self._heard_out = False
        self.seen = Observation("starting", device_s=0.0)
        if not fresh:
            self._show(protocol.read_json(job.directory / protocol.PROGRESS) or {})  # as the process before this one knew it
        self.found = asyncio.Event()
        self.task = asyncio.create_task(self._keep())

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def device(self) -> str:
        return self._job.spec.device

    @property
    def training(self) -> bool:
        """Whether its sandbox runs, or will: a submission may come of it."""
        return self.seen.phase in ("starting", "running")

    def observation(self) -> Observation:
        if self.seen.phase == "running":
            return replace(self.seen, device_s=self._device_s())
        return self.seen

    async def _keep(self) -> None:
        wait_s, made = RETRY_S[0], not self._fresh
        try:
            while True:
                try:
                    return await self._see_through(self._find() if made else self._create())
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                    _log.warning("%s runs on, and is looked for again in %.0f s: %s", name(self._job), wait_s, error)
                await asyncio.sleep(wait_s)
                wait_s, made = min(2 * wait_s, RETRY_S[1]), True
        except protocol.ResultError as error:
            _log.error("%s left a result that can't be read: %s", name(self._job), error)
            self.seen = Observation("ended", reason=str(error), device_s=self._device_s())
            with contextlib.suppress(OSError):  # then it counts as lost, and runs again
                protocol.write_json(self._job.directory / protocol.RESULT, {protocol.UNREADABLE: str(error)})
        except ModalRefused as error:
            self.seen = Observation("refused", reason=str(error), device_s=self._device_s())
        except Exception:
            _log.exception("the keeper of %s failed", name(self._job))
            self.seen = Observation("lost", device_s=self._device_s())
        finally:
            self.found.set()

    async def _see_through(self, finding: Coroutine[Any, Any, str | None]) -> None:
        if (id := await finding) is not None:
            self.found.set()
            self._placed_at = self._placed_at or time.time()
            protocol.write_json(self._job.directory / SANDBOX, {"id": id})
            await self._follow(id)
            self._service.forget(id)
        self._over_at = self._over_at or time.time()
        await self._read_account()
        result = await self._result(patient=id is not None or self._fresh or bool(self._account))
        if result is not None:
            self.found.set()
            await self._read_account()
        await self._conclude(result)

    # Creating and finding

    async def _create(self) -> str | None:
        """The id of the sandbox, made or adopted. None if it is cancelled, or over already."""
        wait_s = RETRY_S[0]
        while not self._cancelled.is_set():
            asked_at = time.time()
            creating = asyncio.create_task(self._service.create(self._sandbox()))
            cancelled = asyncio.create_task(self._cancelled.wait())
            try:
                await asyncio.wait({creating, cancelled}, return_when=asyncio.FIRST_COMPLETED)
                if not creating.done():
                    break
                return creating.result()
            except NameTaken:
                return await self._look()
            except EndedEarly:
                # Before it had anything to say. How long it waited for its place, at no charge, isn't told
                held_s = min(max(BOOT_S, time.time() - asked_at), START_LIMIT_S)
                self._placed_at, self._heard_out = time.time() - held_s, True
                return None
            except ModalAway as error:  # away or full; it may have been made all the same
                if (id := await self._look()) is not None:
                    return id
                _log.warning("%s is not placed yet, next try in %.0f s: %s", name(self._job), wait_s, error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._cancelled.wait(), wait_s)
                wait_s = min(2 * wait_s, RETRY_S[1])
            finally:
                cancelled.cancel()
                if not creating.done():  # which ends a sandbox that waits for its place
                    creating.cancel()
                    with contextlib.suppress(asyncio.CancelledError, ModalAway, ModalRefused, NameTaken, EndedEarly):
                        await creating
        return await self._look()

    async def _find(self) -> str | None:
        """The id of a sandbox that an earlier process may have made; None if it is over, or now never will be."""
        if (id := await self._look()) is not None:
            return id
        if await self._read(protocol.RESULT) is not None:
            return None
        path = f"{folder(self._job)}/{protocol.ABANDONED}"
        await retry_until_available(lambda: self._service.write(self._context.deployment.runs, path, b""), "abandoning")
        return await self._look()

    async def _look(self) -> str | None:
        """By name, then by tags."""
        if (id := await retry_until_available(lambda: self._service.find(name(self._job)), "finding")) is not None:
            return id
        found = await retry_until_available(lambda: self._service.running(self._tags()), "listing")
        return next(iter(found), None)

    def _tags(self) -> dict[str, str]:
        return {"lab": self._context.deployment.lab, "stage": "train", "experiment": self._job.id, "attempt": str(self._job.attempt)}

    def _limit_s(self) -> int:
        spec = self._job.spec
        return int(prepare.max_wall_s(spec.profile, spec.budget_s) - prepare.PROFILES[spec.profile].score_s + START_LIMIT_S)

    def _sandbox(self) -> Sandbox:
        job, deployment = self._job, self._context.deployment
        spec, caches = job.spec, dict[str, Mount]()
        if volume := deployment.compile_caches.get(spec.device):
            spec, caches = (
                replace(spec, compile_cache=f"{COMPILE_CACHE}/{protocol.COMPILE_CACHE}"),
                {COMPILE_CACHE: Mount(volume, read_only=True)},
            )
        return Sandbox(
            name=name(job),
            argv=(*self._context.command, "train", json.dumps(asdict(spec)), CODE, OUT),
            tags=self._tags(),
            image=deployment.image,
            timeout_s=self._limit_s(),
            volumes={
                TRAINING: Mount(deployment.training, read_only=True),
                OUT: Mount(deployment.runs, sub_path=f"/{folder(job)}"),
                **caches,
            },
            gpu=self._context.gpus[job.spec.device],
            cpu=(max(2.0, job.spec.threads), max(8.0, job.spec.threads)),
            memory=(16_384, 65_536),
            folder=job.directory / protocol.CODE,
            mounted=CODE,
        )

    # Following

    async def _follow(self, id: str) -> None:
        """Until the sandbox has ended."""
        listening = asyncio.create_task(self._listen(id))
        cancelled = asyncio.create_task(self._cancelled.wait())
        terminated, wait_s = False, RETRY_S[0]
        try:
            while True:
                awaited = {listening} if terminated or listening.done() else {listening, cancelled}
                await asyncio.wait(awaited, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if self._cancelled.is_set() and not terminated:
                    await retry_until_available(lambda: self._service.terminate(id), "terminating")
                    terminated = True
                if await retry_until_available(lambda: self._service.poll(id), "polling") is not None:
                    await asyncio.wait({listening}, timeout=LOOK_S)
                    return
                if listening.done():
                    if listening.exception() is not None:
                        _log.info("%s is listened to again: %s", name(self._job), listening.exception())
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, RETRY_S[1])
                    listening = asyncio.create_task(self._listen(id))
        finally:
            cancelled.cancel()
            listening.cancel()
            await asyncio.wait({listening})
            if not listening.cancelled():
                listening.exception()  # seen: what it said counts, not how it ended

    async def _listen(self, id: str) -> None:
        """Write down what the sandbox says, from its beginning."""
        with (
            (self._job.directory / protocol.LOG).open("wb", buffering=0) as log,
            (self._job.directory / protocol.CURVE).open("wb", buffering=0) as curve,
        ):
            files, left = {protocol.LOG: log, protocol.CURVE: curve}, dict.fromkeys((protocol.LOG, protocol.CURVE), LOG_BYTES)
            async for line in self._service.lines(id):
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # of the image or the interpreter, not of the entry point
                if not isinstance(message, dict):
                    continue
                self._hear(message)
                for key, file in files.items():
                    if key in message and left[key] > 0:
                        left[key] -= file.write(str(message[key]).encode()[: left[key]]) or 0
        self._heard_out = True

    def _hear(self, message: dict[str, Any]) -> None:
        self._learn(message)
        if "progress" in message:
            self._show(message["progress"])
        if isinstance(message.get("result"), dict):
            self._said = message["result"]

    def _show(self, progress: dict[str, Any]) -> None:
        used_s = float(progress.get("used_s", 0.0))
        phase: Literal["starting", "running"] = "running" if progress.get("phase") == "running" or used_s else "starting"
        if phase == "running" or self.seen.phase == "starting":
            self.seen = Observation(phase, used_s=used_s, share=min(1.0, used_s / self._job.spec.budget_s))
        _overwrite(self._job.directory / protocol.PROGRESS, {**progress, "phase": phase})

    def _device_s(self) -> float:
        """Seconds that its sandbox ran, boot included, by its own clock where it told; the most that it can be where that isn't known."""
        over = self._over_at or time.time()
        held_s = over - self._placed_at if self._placed_at else 0.0
        if "begun" in self._account:
            told_s = BOOT_S + max(0.0, self._account.get("ended", over) - self._account["begun"])
            held_s = told_s if "ended" in self._account else max(held_s, told_s)
        return min(held_s, BOOT_S + self._limit_s())

    def _learn(self, account: dict[str, Any]) -> None:
        known = {"sandbox": str, "begun": float, "ended": float}
        self._account.update({key: account[key] for key, kind in known.items() if isinstance(account.get(key), kind)})

    async def _read_account(self) -> None:
        """What a container wrote of itself that was not heard to the end."""
        if "ended" not in self._account:
            self._learn(await self._read(protocol.BEGUN) or {})
        if (id := self._account.get("sandbox")) and not (self._job.directory / SANDBOX).exists():
            protocol.write_json(self._job.directory / SANDBOX, {"id": id})

    # Concluding

    async def _result(self, patient: bool) -> protocol.Result | None:
        """The result file, as late as the volume shows it; else what stdout said. None is awaited of a sandbox that was heard to die without."""
        may_come = patient and not self._cancelled.is_set() and ("ended" in self._account or not self._heard_out)
        deadline = time.monotonic() + (COMMIT_S if may_come else 0.0)
        while True:
            value = await self._read(protocol.RESULT) or self._said
            if value is not None:
                return protocol.parse_result(value)
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(RETRY_S[0])

    async def _bytes(self, file: str) -> bytes | None:
        path = f"{folder(self._job)}/{file}"
        return await retry_until_available(lambda: self._service.read(self._context.deployment.runs, path), "reading")

    async def _read(self, file: str) -> dict[str, Any] | None:
        data = await self._bytes(file)
        try:
            value = json.loads(data) if data is not None else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    async def _conclude(self, result: protocol.Result | None) -> None:
        await self._fetch_log()
        device_s = self._device_s()
        if result is not None and result.state == protocol.SUBMITTED and not self._cancelled.is_set():
            self.seen = Observation("scoring", used_s=self.seen.used_s, share=1.0, device_s=device_s)
            score = asyncio.create_task(self._scoring.score(self._job))
            cancelled = asyncio.create_task(self._cancelled.wait())
            try:
                await asyncio.wait({score, cancelled}, return_when=asyncio.FIRST_COMPLETED)
                if score.done():
                    scored, seconds = score.result()
                    device_s += seconds
                    result = scored or replace(result, state="crashed", failure=_UNSCORED)
            finally:
                for task in (score, cancelled):
                    task.cancel()
        if self._cancelled.is_set() and (result is None or result.state != "finished"):  # whatever it died of on the way
            blank = protocol.Result("cancelled", seed=self._job.spec.seed, device=self._job.spec.device)
            result = replace(result or blank, state="cancelled", failure=None)
        if result is None:
            self.seen = Observation("lost", device_s=device_s, never_started=not (self._fresh or self._account))
            return
        await asyncio.to_thread(protocol.write_json, self._job.directory / protocol.RESULT, replace(result, device_s=round(device_s, 1)))
        self.seen = Observation("ended", result=result, device_s=device_s)

    async def _fetch_log(self) -> None:
        """The whole log as the launcher kept it, where stdout brought none: retention is limited, and so is listening."""
        log = self._job.directory / protocol.LOG
        if log.exists() and log.stat().st_size:
            return
        for file in (protocol.LOG, protocol.CURVE):
            if data := await self._bytes(file):
                (self._job.directory / file).write_bytes(data)


def _overwrite(path: Path, value: dict[str, Any]) -> None:
    """Without fsync: the next line brings it again."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)
