"""Sweeps: asks for the next trials as earlier ones end, and queues each as an ordinary proposal and experiment.

All that this knows is in the ledger. A trial is written together with its experiment, so a runner that was killed at any point is
continued by the next one, and no trial is trained twice.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.evidence import counted, for_display, metrics
from autoresearch_mcp.server.gate.spread import mean
from autoresearch_mcp.server.installation import is_installed
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.ledger.budget import Share
from autoresearch_mcp.server.models import Experiment, Proposal, Sweep, Trial, new_id
from autoresearch_mcp.server.proposals import changes, literals
from autoresearch_mcp.server.proposals.repo import Draft, Repo
from autoresearch_mcp.server.runner import sampling
from autoresearch_mcp.server.settings import Settings

HOPELESS = 10  # trials that came to nothing, without one that finished: then a sweep stops
TAG = "sweep"  # tag of every trial

Point = tuple[dict[str, str], dict[str, Any]]  # of a sweep: its values, and what the sampler wants to find again

_log = logging.getLogger("autoresearch.runner")


class Sweeps:
    """Drives the open sweeps of a lab, beside the runner's rounds: Optuna takes a second to import, and thinks, while slots are filled.

    Args:
        settings: returns the lab's, as lab.toml has them now.
        ledger: where sweeps and trials are.
        repo: makes the commits.
    """

    def __init__(self, settings: Callable[[], Settings], ledger: Ledger, repo: Repo) -> None:
        self._current = settings
        self._ledger = ledger
        self._repo = repo
        self._under_way: asyncio.Task[None] | None = None
        self._done: object = None  # the lab as it was when nothing more was to do
        self._asked: dict[str, tuple[int, Point]] = {}  # the last point of each sweep: one that waits for budget is not asked for again
        self._elsewhere: dict[str, list[sampling.Known]] = {}  # results of the same code that came from no trial, by sweep

    async def advance(self) -> None:
        """Begin to queue the trials that are due, at most one of each sweep, unless that is under way.

        Raises:
            LabError: the ledger or the repository couldn't be used, the last time.
        """
        if self._under_way is not None and not self._under_way.done():
            return
        await self.wait()
        key = self._ledger.changes(), self._current()
        if key != self._done and self.any():
            self._under_way = asyncio.create_task(self._look(key))

    async def wait(self) -> None:
        """Wait for what is under way.

        Raises:
            LabError: the ledger or the repository couldn't be used.
        """
        task, self._under_way = self._under_way, None
        if task is not None:
            await task

    def any(self) -> bool:
        """Return whether any sweep is open."""
        return bool(self._ledger.open_sweeps(limit=1))

    async def _look(self, key: object) -> None:
        if not await asyncio.to_thread(self._advance):
            self._done = key

    def _advance(self) -> bool:
        """Return whether anything was done."""
        done = [self._step(sweep) for sweep in self._ledger.open_sweeps()]  # of each, whatever came of the others
        return any(done)

    def _step(self, sweep: Sweep) -> bool:
        try:
            return self._next(sweep)
        except sampling.Unsampled as error:
            return self._end(sweep, "stopped", f"No next trial could be chosen: {error}")

    def _next(self, sweep: Sweep) -> bool:
        trials = self._ledger.trials(sweep.id)
        known = self._known(sweep, trials)
        running = sum(each.state == "running" for each in known)
        finished = sum(each.state == "finished" for each in known)
        if finished >= sampling.FEWEST_WEIGHED and finished > sweep.weighed and is_installed("optuna"):
            shares = sampling.weigh(sweep, known)
            return self._ledger.move_sweep(sweep.id, importances=shares, weighed=finished) is not None
        if len(known) - running >= HOPELESS and not finished:
            return self._end(sweep, "stopped", f"None of its first {len(known) - running} trials finished: see why with get_experiment.")
        if len(trials) >= sweep.trials:
            return not running and self._end(sweep, "done", f"All {len(trials)} trials have ended.")
        return running < sweep.parallel and self._try(sweep, len(trials), known)

    def _known(self, sweep: Sweep, trials: list[Trial]) -> list[sampling.Known]:
        ended = self._ledger.ended([each.experiment for each in trials if each.experiment])
        sign = -1.0 if self._current().metric.better == "max" else 1.0
        known = []
        for trial in trials:
            row = ended.get(trial.experiment)
            if row is None:
                known.append(sampling.Known(trial.values, "running" if trial.experiment else "failed", attrs=trial.attrs))
                continue
            value = row["reported_bpb"] if row["val_bpb"] is None else row["val_bpb"]
            if row["state"] == "finished" and value is not None:
                known.append(sampling.Known(trial.values, "finished", sign * value, trial.attrs))
            else:
                known.append(sampling.Known(trial.values, "stopped" if row["state"] == "stopped_early" else "failed", attrs=trial.attrs))
        return known

    def _try(self, sweep: Sweep, number: int, known: list[sampling.Known]) -> bool:
        """Queue the next trial. Return whether anything was done."""
        values, attrs = self._point(sweep, number, known)
        trial = Trial(sweep=sweep.id, number=number, values=values, attrs=attrs)
        try:
            proposal, twin = self._proposal(sweep, number, values)
        except LabError as error:
            if error.code in ("busy", "disk_full", "git_failed", "read_only", "ledger_unusable"):
                raise
            return self._ledger.keep_trial(trial.model_copy(update={"note": f"No proposal could be made of it: {error}"}))
        trial.commit = proposal.commit
        if twin and (measured := self._measured(proposal.commit)):
            note = "The same code was trained before."
            return self._ledger.keep_trial(trial.model_copy(update={"experiment": measured, "note": note}))
        return self._queue(sweep, trial, proposal)

    def _point(self, sweep: Sweep, number: int, known: list[sampling.Known]) -> Point:
        if sweep.id not in self._elsewhere:
            self._elsewhere[sweep.id] = self._results_elsewhere(sweep)
        asked = self._asked.get(sweep.id)
        if asked is None or asked[0] != number:
            asked = self._asked[sweep.id] = number, sampling.ask(sweep, number, [*self._elsewhere[sweep.id], *known])
        return asked[1]

    def _queue(self, sweep: Sweep, trial: Trial, proposal: Proposal) -> bool:
        settings = self._current()
        each, launch, device = settings.longest_s(), settings.launch(), settings.reference
        experiment = Experiment(
            id=new_id("e"),
            commit=proposal.commit,
            base=proposal.base,
            author=sweep.author,
            hypothesis=proposal.hypothesis,
            tags=sorted({*proposal.tags, *sweep.tags, TAG, sweep.id}),
            seed=secrets.randbelow(2**31),
            device=device,
            created_at=time.time(),
            reserved_s=each,
            expected_s=min(self._ledger.typical_s(launch, device) or 0.0, each),
            reserved_usd=each * settings.usd_per_s(device),
        )
        trial.experiment = experiment.id
        share = replace(Share.of(settings.swarm), queued=0)  # the sweep was accepted: its trials wait `parallel` at a time
        hours, usd = settings.budget.device_hours * 3600, settings.budget.usd
        try:
            return self._ledger.enqueue([experiment], hours, None, "", usd, launch, share=share, trial=trial) is not None
        except LabError as error:
            if error.code not in ("over_budget", "over_share"):
                raise
            # What runs may return what it doesn't use.
            return not self._ledger.open_experiments(limit=1) and self._end(
                sweep, "stopped", f"{trial.number} trials were launched. {error}"
            )

    def _proposal(self, sweep: Sweep, number: int, values: dict[str, str]) -> tuple[Proposal, bool]:
        """Return the proposal of a trial, and whether its code was there before."""
        files = self._repo.editable_files(sweep.commit)
        told = ", ".join(f"{name} = {value}" for name, value in values.items())
        hypothesis = f"{told}: trial {number + 1} of the sweep {sweep.id}."  # the values first: lists show the beginning
        if all(literals.literal(values[name]) == literals.literal(each.now) for name, each in sweep.parameters.items()):
            origin = self._ledger.proposal(self._ledger.proposal_of(sweep.commit))
            return origin or self._unchanged(sweep), True
        draft = self._repo.build(sweep.commit, hypothesis, sweep.author, files=literals.replaced(files, values))
        if (twin := self._ledger.twin(draft.fingerprint)) is not None:
            return twin, True
        self._repo.keep(draft.commit)
        return self._recorded(sweep, draft, hypothesis, told), False

    def _recorded(self, sweep: Sweep, draft: Draft, hypothesis: str, told: str) -> Proposal:
        change = self._repo.diff(draft.base, draft.commit)
        proposal = Proposal(
            commit=draft.commit,
            base=draft.base,
            fingerprint=draft.fingerprint,
            author=sweep.author,
            hypothesis=hypothesis,
            title=told[:60],
            sets=changes.constants(change),
            change=changes.fingerprint(change),
            tags=sorted({*sweep.tags, TAG, sweep.id}),
            files_changed=draft.files_changed,
            insertions=draft.insertions,
            deletions=draft.deletions,
            created_at=time.time(),
            added=draft.added,
        )
        return self._ledger.add_proposal(proposal, draft.canonical)

    @staticmethod
    def _unchanged(sweep: Sweep) -> Proposal:
        """Return the commit of a sweep as what its experiments name, where no proposal made it."""
        facts = {"files_changed": 0, "insertions": 0, "deletions": 0, "created_at": sweep.created_at, "fingerprint": ""}
        return Proposal(commit=sweep.commit, base=sweep.commit, author=sweep.author, hypothesis="baseline", **facts)

    def _measured(self, commit: str) -> str:
        """Return an experiment that measures this commit under today's conditions, or will; empty where there is none."""
        conditions = self._conditions()
        scores = [each for each in self._ledger.scores(commit) if each.state == "finished" and each.conditions == conditions]
        open_ = [e.id for e in self._ledger.open_experiments() if e.commit == commit]
        return next((each.experiment for each in scores), open_[0] if open_ else "")

    def _conditions(self) -> str:
        """Return the conditions of the newest result on the reference kind of device."""
        rows = [row for row in self._ledger.recent(50) if row["state"] == "finished" and row["device"] == self._current().reference]
        return str(rows[0]["conditions"]) if rows else ""

    def _results_elsewhere(self, sweep: Sweep) -> list[sampling.Known]:
        """Return the results of a sweep's own commit, and of earlier proposals on it that set nothing but the sweep's constants."""
        now = {name: each.now for name, each in sweep.parameters.items()}
        points = [(now, sweep.commit)]
        for _, proposal in self._ledger.proposals_after(0, -1):
            lines = len(proposal.sets)
            only = lines and lines == proposal.insertions == proposal.deletions and set(proposal.sets) <= set(now)
            if only and proposal.base == sweep.commit and sweep.id not in proposal.tags:
                points.append((now | proposal.sets, proposal.commit))
        conditions, rules = self._conditions(), for_display(self._current().promotion)
        sign = -1.0 if self._current().metric.better == "max" else 1.0
        known = []
        for values, commit in points:
            measured = metrics(counted(self._ledger.scores(commit), rules, conditions)) if conditions else []
            if measured and sampling.covers(values, sweep.parameters):
                known.append(sampling.Known(values, "finished", sign * mean(measured)))
        return known

    def _end(self, sweep: Sweep, state: str, note: str) -> bool:
        _log.info("%s ended: %s %s", sweep.id, state, note)
        return self._ledger.move_sweep(sweep.id, state=state, note=note) is not None
