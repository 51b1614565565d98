"""The loop that drives experiments, one a lab (`daemon.py` is the process around it).

It alone submits to the compute backend, moves experiments that left the queue, and writes to the lake. All it knows is in the
ledger and in the run directories, so it can be killed at any instant: the next one adopts what runs, records what ended meanwhile,
and queues what was lost again, once, and what never began as often as a runner dies.
"""

import asyncio
import contextlib
import logging
import math
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.compute.base import Compute, ComputeError, Job, Observation
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake.base import Lake, LakeDamaged, LakeUnavailable
from autoresearch_mcp.server.lake.embedded.repair import repair
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment, ExperimentState, Failure, Table
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.proposals.source import fingerprint
from autoresearch_mcp.server.runs import locate, read_tail
from autoresearch_mcp.trainer import protocol

ATTEMPTS = 2  # a lost run is started again once; one that never began, as its runner died, was no attempt
START_LIMIT_S = 120.0  # from submission to the first sign of life
FLUSH_EVERY_S = 5.0
FLUSH_ROWS = 500
LINGER_S = 20.0  # idle time before it exits; an agent's next call often comes within it
ROUND_RETRY_S = (1.0, 60.0)  # first and longest wait after a round that failed
LAKE_RETRY_S = (1.0, 60.0)  # first and longest wait after the lake was away
GIVE_UP_S = 600.0  # idle time after which an unreachable lake no longer keeps it alive: the ledger keeps the rows
KEEP_HOUSE_S = 300.0  # between two looks for sandboxes that nobody needs, and for what the provider charged
BILL_AFTER_S = 600.0  # from an end to its bill
BILL_WITHIN_S = 7 * 86_400.0  # after which the estimate stands

_log = logging.getLogger("autoresearch.runner")
_ENDINGS: dict[str, ExperimentState] = {"finished": "finished", "crashed": "crashed", "timed_out": "timed_out", "cancelled": "cancelled"}


class Runner:
    """Drives one lab. Hold the lab's runner lock while it lives."""

    def __init__(self, settings: lab_settings.Settings, state: Path, ledger: Ledger, repo: Repo, lake: Lake, compute: Compute) -> None:
        self._settings = settings
        self._state = state
        self._ledger = ledger
        self._repo = repo
        self._lake = lake
        self._compute = compute
        self._data: str | None = None
        self._flush_at = 0.0
        self._flushing: asyncio.Task[None] | None = None
        self._lake_wait_s = LAKE_RETRY_S[0]
        self._repaired = False
        self._lake_keeps_up = True  # it took, and gave back, all that it was given last time
        self._active = time.monotonic()
        self._housekeeping: asyncio.Task[None] | None = None
        self._keep_house_at = 0.0
        self._held_s: dict[str, float] = {}  # device seconds of what runs, as last seen
        self.stopping = asyncio.Event()

    async def run(self, linger_s: float = LINGER_S) -> None:
        """Work until there has been nothing to do for `linger_s`, or `stopping` is set."""
        try:
            await self._adopt_all()
            failed_s = 0.0  # the wait after the last round, if that failed
            while not self.stopping.is_set():
                try:
                    idle_s = await self._round()
                    failed_s = 0.0
                except Exception as error:  # a full disk, a busy ledger, a fault of ours: what is written stays true, so try again
                    _log.error("A round failed, and is tried again: %s", error, exc_info=not isinstance(error, LabError))
                    idle_s, failed_s = 0.0, min(max(ROUND_RETRY_S[0], 2 * failed_s), ROUND_RETRY_S[1])
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.stopping.wait(), failed_s)
                if idle_s > linger_s:
                    await self._flushed()
                    if self._lake_keeps_up:  # else its next turn comes in `_round`
                        await self._flush()
                    if not self._ledger.unflushed() or idle_s > GIVE_UP_S:
                        break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), self._compute.poll_s)
        finally:
            if self.stopping.is_set():
                await asyncio.to_thread(self._lake.close)  # a flush that waits for a service gives up: its rows stay in the ledger
            with contextlib.suppress(LabError):
                await self._flushed()
            if self._housekeeping is not None:
                self._housekeeping.cancel()
                await asyncio.wait({self._housekeeping})
            await self._compute.close()

    async def _round(self) -> float:
        """One look at everything. Returns for how long there has been nothing to do."""
        await asyncio.gather(*(self._advance(e) for e in self._ledger.open_experiments(*ACTIVE_STATES)))
        if self._settings.rents:
            self._keep_house()
            self._stop_at_the_cap()
        if (free := self._free_slots()) > 0:
            for experiment in self._ledger.open_experiments("queued")[:free]:
                await self._start(experiment)
        if time.monotonic() >= self._flush_at and (self._flushing is None or self._flushing.done()):
            await self._flushed()
            self._flushing = asyncio.create_task(self._flush())  # beside the rounds: a slow lake keeps no slot waiting
        if self._ledger.open_experiments():
            self._active = time.monotonic()
            return 0.0
        return time.monotonic() - self._active

    def _free_slots(self) -> int:
        """A slot is held from start to the end of training. Scoring holds it on only where no core is free to score on beside full slots."""
        active = self._ledger.open_experiments(*ACTIVE_STATES)
        scored_beside = min(sum(e.state == "scoring" for e in active), self._compute.scored_beside(self._settings.slots))
        return self._settings.slots - len(active) + scored_beside

    # Experiments

    async def _start(self, experiment: Experiment) -> None:
        intent = self._ledger.move(experiment.id, ["queued"], state="starting", attempt=experiment.attempt + 1, started_at=time.time())
        if intent is None:
            return  # cancelled in the meantime
        if intent.losses and not self._affordable():
            message = "The run was lost, and [budget] usd does not cover that and another try."
            failure = Failure(kind="lost", message=message, advice="Ask the lab's owner to raise it, then launch again.")
            self._end(intent, "crashed", 0.0, failure=failure)
            return
        try:
            training = self._settings.training
            if self._data is None:
                self._data = await self._compute.prepare() if training.metric == "verified" else ""
            files = await asyncio.to_thread(self._repo.editable_files, intent.commit)
            others = await asyncio.to_thread(self._repo.other_files, intent.commit, training.files) if training.files else {}
            await self._compute.submit(self._job(intent, files, others))
        except (ComputeError, LabError, OSError) as error:
            _log.error("%s not started: %s", intent.id, error)
            failure = Failure(kind="error", message=str(error), advice="This is not the proposal's fault.")
            self._end(intent, "crashed", 0.0 if self._settings.rents else None, failure=failure)

    async def _advance(self, experiment: Experiment) -> None:
        job = self._job(experiment)
        if experiment.cancel_requested:
            await self._compute.cancel(job)
        seen = await self._compute.observe(job)
        self._held_s[experiment.id] = seen.device_s or 0.0
        if seen.phase == "ended":
            self._record(experiment, seen)
        elif seen.phase == "refused":
            failure = Failure(kind="error", message=seen.reason, advice="This is not the proposal's fault.")
            self._end(experiment, "crashed", seen.device_s, failure=failure)
        elif seen.phase == "lost" or (seen.phase == "starting" and self._overdue(experiment) and not await self._compute.adopt(job)):
            self._lost(experiment, seen)  # as seen before it was forbidden: what this runner waited for in vain counts
        elif seen.phase != experiment.state:
            self._ledger.move(experiment.id, ACTIVE_STATES, state=seen.phase)

    @staticmethod
    def _overdue(experiment: Experiment) -> bool:
        return time.time() - (experiment.started_at or 0.0) > START_LIMIT_S

    async def _adopt_all(self) -> None:
        active = self._ledger.open_experiments(*ACTIVE_STATES)
        adopted = await asyncio.gather(*(self._compute.adopt(self._job(e)) for e in active))
        for experiment, running in zip(active, adopted):
            if running:
                _log.info("%s adopted", experiment.id)
            else:
                self._lost(experiment, await self._compute.observe(self._job(experiment)))

    def _lost(self, experiment: Experiment, seen: Observation) -> None:
        """The run vanished without a result: killed from outside, or the machine went down, or its runner died before it began."""
        losses = experiment.losses + (not seen.unbegun)
        if experiment.cancel_requested:
            self._end(experiment, "cancelled", seen.device_s, losses=losses)
        elif losses < ATTEMPTS:
            _log.warning("%s %s, queued again", experiment.id, "had not begun" if seen.unbegun else "lost")
            cost = self._cost(experiment, seen.device_s)
            self._ledger.move(experiment.id, ACTIVE_STATES, state="queued", started_at=None, losses=losses, **cost)
        else:
            message = f"The run ended without a result {ATTEMPTS} times; something outside of it killed it."
            failure = Failure(kind="lost", message=message, advice="Look at the machine's memory and the runner's log, then launch again.")
            self._end(experiment, "crashed", seen.device_s, losses=losses, failure=failure)

    def _record(self, experiment: Experiment, seen: Observation) -> None:
        result = seen.result or {}
        try:
            changes = self._read(experiment, result)
            self._keep_evidence(experiment, result)
            self._end(experiment, device_s=seen.device_s, **changes)
        except (AttributeError, KeyError, TypeError, ValueError):  # damaged, or by another version: it must not end the loop for all
            _log.exception("%s has a result that could not be understood", experiment.id)
            failure = Failure(kind="error", message="The launcher's result could not be understood.", advice="Launch it again.")
            self._end(experiment, "crashed", seen.device_s, failure=failure)

    def _keep_evidence(self, experiment: Experiment, result: dict[str, Any]) -> None:
        """Move what agents must not see from the run directory to the ledger."""
        hidden = _number(result.get("test_bpb"))
        weights = result["hashes"].get("weights")
        self._ledger.keep_evidence(experiment.id, str(result["sandbox"]), hidden, weights)
        if hidden is not None:
            with contextlib.suppress(OSError):  # a full disk: it stays where only a shell can read it
                protocol.write_json(locate(self._state, experiment) / protocol.RESULT, {**result, "test_bpb": None})

    def _read(self, experiment: Experiment, result: dict[str, Any]) -> dict[str, Any]:
        """What a launcher's result says of an experiment, as changes to it."""
        state = _ENDINGS[result["state"]]
        directory = locate(self._state, experiment)
        spec = protocol.read_json(directory / protocol.SPEC) or {}
        metric = result.get("val_bpb")
        told = _number(result.get("reported_bpb" if spec.get("metric") else "val_bpb"))
        if state == "finished" and told is None:
            state, metric = "crashed", None
            result["failure"] = {"kind": "invalid_model", "message": "The scorer measured no finite val_bpb."}
        return {
            "state": state,
            "val_bpb": metric if state == "finished" else None,
            "reported_bpb": result.get("reported_bpb"),
            "conditions": protocol.conditions(result, spec),
            "device": result.get("device", experiment.device),
            "failure": Failure.model_validate(result["failure"]) if result.get("failure") else None,
            "curve": [(float(x), float(y)) for x, y in result.get("curve", []) if math.isfinite(x) and math.isfinite(y)],
            "details": {k: v for k, v in result.items() if k not in ("state", "val_bpb", "test_bpb", "reported_bpb", "failure", "curve")},
            "log_tail": read_tail(directory / protocol.LOG),
        }

    def _end(self, experiment: Experiment, state: ExperimentState, device_s: float | None = None, **changes: Any) -> None:
        cost = self._cost(experiment, device_s)
        self._ledger.move(experiment.id, ACTIVE_STATES, state=state, finished_at=time.time(), **cost, **changes)

    def _cost(self, experiment: Experiment, device_s: float | None) -> dict[str, float]:
        """What it has cost with this attempt, which held its device for `device_s`, or ever since it was started."""
        seconds = _elapsed(experiment) if device_s is None else device_s
        cost = {"cost_s": experiment.cost_s + seconds}
        if self._settings.rents:
            cost["cost_usd"] = experiment.cost_usd + seconds * self._settings.usd_per_s(experiment.device)
        return cost

    # Money and order, where devices are rented

    def _stop_at_the_cap(self) -> None:
        """Launches reserve the most that they can cost, so this happens only where lab.toml or the provider's bills changed the sum."""
        open_, cap = self._ledger.open_experiments(), self._settings.budget.usd
        active = [e for e in open_ if e.state in ACTIVE_STATES]
        self._held_s = {e.id: self._held_s.get(e.id, 0.0) for e in active}
        spent = self._ledger.money()[0] + sum(self._held_s[e.id] * self._settings.usd_per_s(e.device) for e in active)
        for experiment in open_ if spent >= cap else []:
            if not experiment.cancel_requested:
                _log.error("%s is stopped: $%.2f of [budget] usd = %.2f are spent, what runs included", experiment.id, spent, cap)
                self._ledger.request_cancel(experiment.id)

    def _affordable(self) -> bool:
        spent, reserved, *_ = self._ledger.money()
        return not self._settings.rents or spent + reserved <= self._settings.budget.usd

    def _keep_house(self) -> None:
        if time.monotonic() < self._keep_house_at or (self._housekeeping is not None and not self._housekeeping.done()):
            return
        self._keep_house_at = time.monotonic() + KEEP_HOUSE_S
        self._housekeeping = asyncio.create_task(self._end_orphans_and_settle_bills())  # beside the rounds: the service may be slow

    async def _end_orphans_and_settle_bills(self) -> None:
        try:
            for ended in await self._compute.orphans(self._active_attempts):
                _log.warning("ended %s: no experiment needs it", ended)
            now = time.time()
            for id, attempt in self._ledger.unsettled(now - BILL_AFTER_S):
                if (usd := await self._compute.cost(self._state / "runs" / id / str(attempt))) is not None:
                    self._ledger.settle_bill(id, attempt, usd)
            for id, attempt in self._ledger.unsettled(now - BILL_WITHIN_S):
                self._ledger.settle_bill(id, attempt, None)
        except (ComputeError, LabError) as error:
            _log.warning("sandboxes and bills are looked at again later: %s", error)

    def _active_attempts(self) -> set[tuple[str, int]]:
        return {(e.id, e.attempt) for e in self._ledger.open_experiments(*ACTIVE_STATES)}

    def _job(self, experiment: Experiment, files: Mapping[str, bytes] = {}, others: Mapping[str, bytes] = {}) -> Job:
        training = self._settings.training
        entry, *arguments = shlex.split(training.entry)
        spec = protocol.Spec(
            experiment=experiment.id,
            seed=experiment.seed,
            profile=training.profile,
            budget_s=training.budget_s,
            threads=training.threads,
            data=self._data or "",
            device=experiment.device,
            attention=training.attention,
            entry=entry,
            arguments=tuple(arguments),
            metric=training.reported_metric,
            readable=str(Path(training.data).expanduser()) if training.data else "",
            others=fingerprint(others)[:16] if others else "",
        )
        return Job(experiment.id, experiment.attempt, locate(self._state, experiment), spec, {**others, **files})

    # The lake

    async def _flushed(self) -> None:
        """Wait for the flush under way; its error is the caller's."""
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            await flushing

    async def _flush(self) -> None:
        """Write the outbox to the lake in batches; let go of what can be read back."""
        self._flush_at = time.monotonic() + FLUSH_EVERY_S
        if not self._ledger.unflushed():
            return
        try:
            for table in ("promotions", "memories", "experiments"):
                await asyncio.to_thread(self._flush_table, table)
            self._lake_wait_s = LAKE_RETRY_S[0]
            self._lake_keeps_up = not self._ledger.unflushed()
        except LakeDamaged as error:
            await self._repair(str(error))
        except LakeUnavailable as error:
            self._lake_is_away(str(error))

    def _lake_is_away(self, why: str) -> None:
        _log.warning("the lake is away, next try in %.0f s: %s", self._lake_wait_s, why)
        self._flush_at = time.monotonic() + self._lake_wait_s
        self._lake_wait_s = min(2 * self._lake_wait_s, LAKE_RETRY_S[1])
        self._lake_keeps_up = False

    async def _repair(self, why: str) -> None:
        """Rebuild a damaged lake, once: if that doesn't help, the disk is failing, and it is for a person to look."""
        self._lake_is_away(why)
        if self._repaired:
            return
        self._repaired = True
        try:
            for each in await asyncio.to_thread(repair, self._state / "lake", {"promotions": self._ledger.promotions()}):
                if each.fault:
                    _log.warning("%s: %d records rebuilt; the damaged files are in %s", each.table, each.rows, each.set_aside)
        except (LakeUnavailable, OSError) as error:
            _log.error("the lake could not be rebuilt: %s", error)
        self._flush_at = time.monotonic()

    def _flush_table(self, table: Table) -> None:
        while rows := self._ledger.outbox(table, FLUSH_ROWS):
            ids = [row.id for row in rows]
            versions = {row.id: row.version for row in rows}
            stored = self._lake.present(table, ids)
            missing = [row for row in rows if stored.get(row.id, -1) < row.version]
            if missing:
                self._lake.append(table, missing)
                stored = self._lake.present(table, ids)
            settled = {id: version for id, version in stored.items() if version >= versions[id]}
            self._ledger.settle(table, settled)
            if len(settled) < len(rows):
                return  # not readable yet: the next flush looks again


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _elapsed(experiment: Experiment) -> float:
    """Device seconds since it was started, at most what was reserved: its end may have been noticed long after, when no runner lived."""
    return min(max(0.0, time.time() - experiment.started_at), experiment.reserved_s) if experiment.started_at else 0.0
