"""Moves one experiment at a time: starts its attempts, follows them, records how they ended."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoresearch_mcp.server import tracing
from autoresearch_mcp.server.compute.base import DEVICE, Compute, ComputeError, Job, Observation
from autoresearch_mcp.server.compute.spec import spec_of
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES, PAUSE, Experiment, ExperimentState, Failure
from autoresearch_mcp.server.pace import Paces, settings_of, windows_of
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.proposals.source import fingerprint
from autoresearch_mcp.server.runner.faults import FAULT_LIMIT, Faults
from autoresearch_mcp.server.runner.hopeless import Hopeless, is_stopped
from autoresearch_mcp.server.runner.spending import Spending
from autoresearch_mcp.server.runner.watch import LabMoved
from autoresearch_mcp.server.runs import locate, read_tail
from autoresearch_mcp.server.settings import BudgetSection, LaunchSettings, Settings
from autoresearch_mcp.server.untrusted import file_names_only
from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.protocol import Result

ATTEMPTS = 2  # a lost run is started again once; one that never began, as its runner died, was no attempt
OVER_BUDGET = "over_budget"  # the kind of failure of what the budget did not let start
START_LIMIT_S = 120.0  # from submission to the first sign of life

_log = logging.getLogger("autoresearch.runner")
_NOT_ITS_FAULT = "This is not the proposal's fault."
_ELSEWHERE = (  # not in details
    "state",
    "val_bpb",
    "reported_bpb",
    "failure",
    "curve",
    "fault",
    "barred",
    "ended_in",
    "host",
    "device_id",
    "pressure",
)
_KNOWN = 10_000  # experiments of which it is remembered whether they fit
_ENDINGS: dict[str, ExperimentState] = {"finished": "finished", "crashed": "crashed", "timed_out": "timed_out", "cancelled": "cancelled"}


class Attempts:
    """Starts, follows and ends the attempts of experiments. Only the runner's loop calls it."""

    def __init__(
        self,
        settings: Settings,
        state: Path,
        ledger: Ledger,
        repo: Repo,
        compute: Compute,
        spending: Spending,
        check_place: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._state = state
        self._ledger = ledger
        self._repo = repo
        self._compute = compute
        self._spending = spending
        self._check_place = check_place  # raises LabMoved
        self._faults = Faults()
        self._hopeless = Hopeless(ledger, Paces(state, ledger, repo.champion))
        self._launches: dict[str, LaunchSettings] = {}
        self._jobs: dict[str, Job] = {}  # of what runs, without its files
        self._fits: dict[str, bool] = {}

    async def start(self, experiment: Experiment, data: str, budget: BudgetSection) -> bool:
        """Start the next attempt of a queued experiment, or end it with the reason why that is impossible.

        Args:
            experiment: it is left alone if it has been cancelled in the meantime.
            data: where the prepared data is.
            budget: of the lab. It covers the most that the attempt can cost, or the attempt doesn't start.

        Returns:
            False where it waits, because what runs now may still return enough of the budget.

        Raises:
            LabMoved: nothing is recorded.
            LabError: the ledger can't be used.
        """
        try:
            intent = self._ledger.start(experiment.id, budget.device_hours * 3600, budget.usd if self._settings.rents else math.inf)
        except LabError as error:
            if error.code != "over_budget":
                raise
            if self._ledger.open_experiments(*ACTIVE_STATES, limit=1):
                return False
            self.refuse(experiment, str(error), OVER_BUDGET, "Ask the lab's owner to raise [budget] in lab.toml, then launch again.")
            return True
        if intent is None:
            return True  # cancelled in the meantime
        try:
            training = self._launch(intent).training
            repo = self._repo
            if tuple(training.editable) != repo.editable.patterns:  # lab.toml has changed since the launch
                repo = Repo(repo.root, training.editable)
            files = await asyncio.to_thread(repo.editable_files, intent.commit)
            others = await asyncio.to_thread(repo.other_files, intent.commit, training.files) if training.files else {}
            await self._compute.submit(self._job(intent, data, files, others))
        except Exception as error:
            self._check_place()
            expected = isinstance(error, ComputeError | LabError | OSError)
            _log.error("%s not started: %s", intent.id, error, exc_info=not expected)
            message = str(error) if expected else f"The run could not be started: {type(error).__name__}: {file_names_only(str(error))}."
            failure = Failure(kind="error", message=message, advice=_NOT_ITS_FAULT)
            self._end(intent, "crashed", 0.0 if self._settings.rents else None, failure=failure)
        return True

    def refuse(self, experiment: Experiment, why: str, kind: str = "error", advice: str = _NOT_ITS_FAULT) -> None:
        """End a queued experiment that can't be started. It costs nothing."""
        _log.error("%s not started: %s", experiment.id, why)
        failure = Failure(kind=kind, message=why, advice=advice)
        self._ledger.move(experiment.id, ["queued"], state="crashed", finished_at=time.time(), failure=failure, fault="machine")

    async def advance(self, experiment: Experiment) -> None:
        """Inspect an active experiment, and record what changed: a new state, an end, a loss.

        An inspection that fails is repeated later, so no experiment delays another. After too many failures the experiment is given up.

        Raises:
            LabMoved: nothing is recorded.
            LabError: the ledger can't be used.
        """
        if self._faults.waits(experiment.id):
            return
        try:
            await self._inspect(experiment)
            self._faults.forget(experiment.id)
        except (LabMoved, LabError):
            raise
        except Exception as error:
            self._check_place()
            _log.exception("%s could not be inspected", experiment.id)
            if self._faults.count(experiment.id):
                await self._give_up(experiment, error)

    async def _give_up(self, experiment: Experiment, error: Exception) -> None:
        with contextlib.suppress(Exception):
            await self._compute.cancel(self._known_job(experiment))
        message = (
            f"The runner failed to inspect the run {FAULT_LIMIT} times in a row: {type(error).__name__}: {file_names_only(str(error))}."
        )
        self._end(experiment, "crashed", failure=Failure(kind="error", message=message, advice=_NOT_ITS_FAULT))
        self._faults.forget(experiment.id)

    async def _inspect(self, experiment: Experiment) -> None:
        job = self._known_job(experiment)
        if experiment.cancel_requested:
            await self._compute.cancel(job)
        observation = await self._compute.observe(job)
        self._check_place()
        self._spending.note_held(experiment.id, observation.device_s)
        if observation.phase == "running" and self._launch(experiment).training.stop_hopeless:
            self._hopeless.watch(experiment)
        if observation.phase == "ended":
            self._record(experiment, observation)
        elif observation.phase == "refused":
            failure = Failure(kind="error", message=observation.reason, advice=_NOT_ITS_FAULT)
            self._end(experiment, "crashed", observation.device_s, failure=failure)
        elif observation.phase == "lost" or (
            observation.phase == "starting" and _overdue(experiment) and not await self._compute.adopt(job)
        ):
            self._lose(experiment, observation)  # as it was before it was forbidden: what this runner waited for in vain counts
        elif observation.phase != experiment.state:
            self._ledger.move(experiment.id, ACTIVE_STATES, state=observation.phase)

    async def adopt_all(self) -> None:
        """Take over the runs that an earlier runner started. Those that are gone count as lost."""
        await asyncio.gather(*map(self._adopt, self._ledger.open_experiments(*ACTIVE_STATES)))

    async def _adopt(self, experiment: Experiment) -> None:
        job = self._known_job(experiment)
        try:
            if await self._compute.adopt(job):
                _log.info("%s adopted", experiment.id)
            else:
                observation = await self._compute.observe(job)
                self._check_place()
                self._lose(experiment, observation)
        except LabMoved:
            raise
        except Exception:  # the rounds inspect it again
            _log.exception("%s could not be adopted", experiment.id)

    def _lose(self, experiment: Experiment, observation: Observation) -> None:
        """Queue a run again that vanished without a result, or give it up.

        It was killed from outside, or the machine went down, or its runner died before it began.
        """
        losses = experiment.losses + (not observation.never_started)
        if experiment.cancel_requested:
            self._end(experiment, "stopped_early" if is_stopped(experiment) else "cancelled", observation.device_s, losses=losses)
        elif losses < ATTEMPTS:
            what = "had not begun" if observation.never_started else f"lost {observation.reason}".strip()
            _log.warning("%s %s, queued again", experiment.id, what)
            cost = self._spending.cost(experiment, observation.device_s)
            protocol.remove_hidden(locate(self._state, experiment))
            self._ledger.move(experiment.id, ACTIVE_STATES, state="queued", started_at=None, losses=losses, **cost)
        else:
            message = f"The run ended without a result {ATTEMPTS} times; something outside of it killed it."
            message += f" The last time, {observation.reason}" if observation.reason else ""
            failure = Failure(kind="lost", message=message, advice="Look at the machine's memory and the runner's log, then launch again.")
            self._end(experiment, "crashed", observation.device_s, losses=losses, failure=failure)

    def _record(self, experiment: Experiment, observation: Observation) -> None:
        """End an experiment with its result, whose hidden score moves to the ledger: agents must not see it."""
        directory = locate(self._state, experiment)
        try:
            if observation.result is None:
                raise protocol.ResultError(observation.reason)
            changes = self._read(experiment, observation.result)
            hidden = protocol.read_hidden(directory) if observation.result.state == "finished" else None
            hashes, finding = observation.result.hashes, protocol.read_finding(directory)
            self._ledger.keep_evidence(
                experiment.id, observation.result.sandbox, hidden, hashes.get("weights"), hashes.get("answers"), finding
            )
            if changes["state"] == "finished":
                spec = protocol.read_json(directory / protocol.SPEC)
                self._ledger.keep_curve(experiment.id, settings_of(spec), windows_of(changes["curve"]))
            elif changes["state"] == "cancelled" and is_stopped(experiment):
                changes |= {"state": "stopped_early", "failure": experiment.failure}
        except (KeyError, ValueError) as error:  # damaged, or by another version: it must not end the loop for all
            _log.exception("%s has a result that could not be understood", experiment.id)
            why = str(error) if isinstance(error, protocol.ResultError) else ""
            message = f"The launcher's result could not be understood. {why}".strip()
            failure = Failure(kind="error", message=message, advice="Launch it again.")
            changes = {"state": "crashed", "failure": failure, "fault": "machine"}
        self._end(experiment, device_s=observation.device_s, **changes)

    def _read(self, experiment: Experiment, result: Result) -> dict[str, Any]:
        """Return what a launcher's result says of an experiment, as changes to it."""
        state, failure = _ENDINGS[result.state], result.failure
        directory = locate(self._state, experiment)
        spec = protocol.read_json(directory / protocol.SPEC) or {}
        compared = result.reported_bpb if spec.get("metric") and not spec.get("scoring") else result.val_bpb
        if state == "finished" and (compared is None or not math.isfinite(compared)):
            state, failure = "crashed", {"kind": "invalid_model", "message": "The scorer measured no finite val_bpb."}
        return {
            "state": state,
            "val_bpb": result.val_bpb if state == "finished" else None,
            "reported_bpb": result.reported_bpb,
            "conditions": protocol.conditions(result, spec),
            "device": result.device,
            "failure": Failure.model_validate(failure) if failure else None,
            "curve": [(x, y) for x, y in result.curve if math.isfinite(x) and math.isfinite(y)],
            "details": experiment.details
            | ({"gpu": gpu} if (gpu := protocol.read_json(directory / DEVICE)) else {})
            | {name: value for name, value in asdict(result).items() if name not in _ELSEWHERE and (name, value) != ("device_s", None)},
            "log_tail": read_tail(directory / protocol.LOG),
            **_circumstances(result),
            **({"fault": result.fault or "code"} if state in ("crashed", "timed_out") else {}),
        }

    def _end(self, experiment: Experiment, state: ExperimentState, device_s: float | None = None, **changes: Any) -> None:
        cost = self._spending.cost(experiment, device_s)
        protocol.remove_hidden(locate(self._state, experiment))
        if experiment.cancelled_by == PAUSE:
            changes["cancelled_by"] = ""
            if state == "cancelled":  # it waits again, and what it has used stays charged
                again = {"state": "queued", "started_at": None, "cancel_requested": False, "cancelled_by": ""}
                self._ledger.move(experiment.id, ACTIVE_STATES, **again, **cost)
                return
        if state != "finished":
            phase = experiment.state  # of which the runner knew last; a result says it itself
            changes = {"fault": "code" if state == "stopped_early" else "machine", "ended_in": phase} | changes
        if experiment.started_at is not None and not self._settings.rents:
            changes["beside"] = self._ledger.beside(experiment.id, experiment.started_at)
        self._ledger.move(experiment.id, ACTIVE_STATES, state=state, finished_at=time.time(), **cost, **changes)
        if context := self._ledger.trace_of(experiment.id, experiment.candidacy):
            attributes = {"experiment": experiment.id, "commit": experiment.commit, "author": experiment.author, "state": state}
            tracing.add_training(context, experiment.created_at, experiment.started_at, time.time(), attributes)
        self._launches.pop(experiment.id, None)
        self._jobs.pop(experiment.id, None)

    def fits(self, experiment: Experiment) -> bool:
        """Return whether an experiment was launched for the backend and the kind of training that this runner drives."""
        if experiment.id not in self._fits:
            if len(self._fits) >= _KNOWN:
                self._fits.clear()
            launch = self._ledger.launch_settings(experiment.id)  # None: queued by an older program
            self._fits[experiment.id] = launch is None or _kind(self._settings.under(launch)) == _kind(self._settings)
        return self._fits[experiment.id]

    def measures(self, settings: Settings) -> bool:
        """Return whether this runner drives what is launched under these settings."""
        return _kind(settings) == _kind(self._settings)

    def _launch(self, experiment: Experiment) -> LaunchSettings:
        """Return the settings under which the experiment was launched; the lab's own if an older program queued it."""
        if experiment.id not in self._launches:
            self._launches[experiment.id] = self._ledger.launch_settings(experiment.id) or self._settings.launch()
        return self._launches[experiment.id]

    def _known_job(self, experiment: Experiment) -> Job:
        """Return the job of an attempt that was started, which never changes."""
        job = self._jobs.get(experiment.id)
        if job is None or job.attempt != experiment.attempt:
            job = self._jobs[experiment.id] = self._job(experiment)
        return job

    def _job(self, experiment: Experiment, data: str = "", files: Mapping[str, bytes] = {}, others: Mapping[str, bytes] = {}) -> Job:
        launch = self._launch(experiment)
        spec = spec_of(
            launch,
            experiment.id,
            data,
            seed=experiment.seed,
            device=experiment.device,
            commit=experiment.commit,
            others=fingerprint(others)[:16] if others else "",
            quiet=self._settings.compute.quiet,
            far=not self._settings.under(launch).shares_files,
        )
        return Job(experiment.id, experiment.attempt, locate(self._state, experiment), spec, {**others, **files})


def _circumstances(result: Result) -> dict[str, Any]:
    """Return how a training went, as fields of `models.Circumstances`."""
    return {
        "steps": result.steps or None,
        "metrics": {**result.metrics, "peak_memory_mb": result.peak_memory_mb, "train_s": result.wall_s},
        "cpu_share": result.cpu_share,
        "window_s": result.wall_s or None,
        "pressure": result.pressure,
        "host": result.host,
        "device_id": result.device_id,
        "barred": result.barred,
        **({"ended_in": result.ended_in} if result.ended_in else {}),
    }


def _kind(settings: Settings) -> tuple[object, ...]:
    """Return the settings for which a compute backend and the prepared data are made."""
    training = settings.training
    compute = settings.compute
    place = (
        compute.backend,
        compute.modal,
        compute.slurm,
        compute.login,
        tuple(compute.hosts),
        compute.ssh,
        compute.devices,
        compute.per_device,
        compute.leave_above_mb,
        compute.leave_above_percent,
    )
    return *place, training.profile, training.own_profile, training.threads, settings.is_script


def _overdue(experiment: Experiment) -> bool:
    return time.time() - (experiment.started_at or 0.0) > START_LIMIT_S
