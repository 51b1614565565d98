"""Sweeps: a search over constants of one commit, whose trials are ordinary proposals and experiments."""

import hashlib
import json
import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.promotion import WITHDRAWN
from autoresearch_mcp.server.installation import is_installed
from autoresearch_mcp.server.lab.core import LabCore, checked_id, clean_tags, without_mark
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.lab.trainings import Trainings
from autoresearch_mcp.server.models import Sampler, Sweep, SweepParameter, Trial, new_id
from autoresearch_mcp.server.proposals.literals import Constant, find, literal
from autoresearch_mcp.server.runner.sampling import MEASURED
from autoresearch_mcp.server.untrusted import one_line

MOST_TRIALS, MOST_PARALLEL, MOST_PARAMETERS = 1_000, 64, 16
_ID = re.compile(r"s-[0-9a-z]{15}")


class SweepCases:
    """The use cases around sweeps."""

    def __init__(self, core: LabCore, status: LabStatus, trainings: Trainings) -> None:
        self._core = core
        self._status = status
        self._trainings = trainings

    def launch_sweep(
        self,
        commit: str,
        author: str,
        parameters: Mapping[str, a.Range],
        trials: int,
        parallel: int = 1,
        idempotency_key: str | None = None,
        sampler: Sampler = "tpe",
        tags: list[str] | None = None,
    ) -> a.SweepAnswer:
        """Begin a sweep. The runner asks for its trials, and queues each as a proposal and an experiment.

        Args:
            commit: a champion or proposal, whose constants are varied.
            author: who asks.
            parameters: where each constant may lie, by name.
            trials: how many points are tried.
            parallel: how many of them may be queued or run at once.
            idempotency_key: makes a retry safe, as for `Trainings.launch_training`.
            sampler: chooses the points.
            tags: of each trial.

        Raises:
            LabError: `not_a_proposal`, `withdrawn`, `barred`, `bad_sweep`, `unknown_constant`, `ambiguous_constant`, `not_a_literal`,
                `missing_package`, `over_budget`, `key_reused`, and `not_set_up` where nothing can be trained.
        """
        core = self._core
        sha = self._commit(commit)
        ranges = {name: each.model_dump() for name, each in parameters.items()}
        asked = [sha, ranges, trials, parallel, sampler, without_mark(author), clean_tags(tags)]
        request = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if idempotency_key and (known := core.ledger.answer(idempotency_key, request)):
            return self.launched(known[0], "This key was used for this launch before: this is its sweep.")
        if sampler in MEASURED and not is_installed("optuna"):
            raise LabError(
                "This sampler needs Optuna. The lab's owner can run: pip install 'autoresearch-mcp[sweep]'. sampler='random' and 'grid' do "
                "without. Nothing was launched.",
                "missing_package",
            )
        if not 1 <= len(parameters) <= MOST_PARAMETERS:
            raise _bad(f"parameters names 1 to {MOST_PARAMETERS} constants, not {len(parameters)}")
        if not 1 <= trials <= MOST_TRIALS:
            raise _bad(f"trials is 1 to {MOST_TRIALS}, not {trials}")
        if not 1 <= parallel <= MOST_PARALLEL:
            raise _bad(f"parallel is 1 to {MOST_PARALLEL}, not {parallel}")
        files = core.repo.editable_files(sha)
        checked = {name: _checked(name, each, find(files, name)) for name, each in parameters.items()}
        if sampler == "cmaes" and sum(not each.choices for each in checked.values()) < 2:
            raise _bad("sampler='cmaes' needs two ranges or more; use tpe")
        cost_s = self._afford(trials)
        sweep = Sweep(
            id=new_id("s"),
            commit=sha,
            author=author,
            parameters=checked,
            trials=trials,
            parallel=min(parallel, trials),
            sampler=sampler,
            tags=clean_tags(tags),
            seed=secrets.randbelow(2**31),
            created_at=time.time(),
        )
        recorded = core.ledger.add_sweep(sweep, idempotency_key, request)
        core.wake()
        if recorded.id != sweep.id:
            return self.launched(recorded.id, "This key was used for this launch before: this is its sweep.")
        note = (
            f"{trials} trials take about {cost_s:.0f} device seconds. Call wait_for_experiments(ids=[{sweep.id!r}]); "
            f"get_experiment(id=[{sweep.id!r}]) shows the best so far. To stop it: cancel_experiment(ids=[{sweep.id!r}])."
        )
        return self.launched(sweep.id, note).model_copy(update={"repeated": False})

    def launched(self, id: str, note: str) -> a.SweepAnswer:
        """Return the answer to an earlier launch, with another note.

        Raises:
            LabError: `bad_id`, `unknown_experiment`.
        """
        return a.SweepAnswer(id=id, repeated=True, sweep=self.line(self.known(id)), note=note)

    def sweeps(self, ids: Sequence[str]) -> list[a.SweepLine]:
        """Return these sweeps, each with its best trial so far.

        Raises:
            LabError: `bad_id`, `unknown_experiment`.
        """
        return [self.line(self.known(id)) for id in ids]

    def open_sweeps(self) -> list[a.SweepLine]:
        """Return the sweeps that have not ended, the oldest first."""
        return [self.line(each) for each in self._core.ledger.open_sweeps()]

    def known(self, id: str) -> Sweep:
        """Return a sweep.

        Raises:
            LabError: `bad_id`, `unknown_experiment`.
        """
        sweep = self._core.ledger.sweep(checked_id(id, _ID, "a sweep"))
        if sweep is None:
            raise LabError(f"There is no sweep {id}.", "unknown_experiment")
        return sweep

    def line(self, sweep: Sweep) -> a.SweepLine:
        """Return a sweep as its readers see it."""
        trials = self._core.ledger.trials(sweep.id)
        ended = self._core.ledger.ended([each.experiment for each in trials if each.experiment])
        finished = list[tuple[float, Trial]]()
        failed = 0
        for trial in trials:
            row = ended.get(trial.experiment)
            if row is None:
                failed += not trial.experiment
                continue
            value = row["reported_bpb"] if row["val_bpb"] is None else row["val_bpb"]
            if row["state"] == "finished" and value is not None:
                finished.append((value, trial))
            else:
                failed += 1
        pick = max if self._core.settings.metric.better == "max" else min
        value, best = pick(finished, key=lambda each: each[0]) if finished else (None, None)
        return a.SweepLine(
            id=sweep.id,
            commit=sweep.commit,
            author=sweep.author,
            state=sweep.state,
            ended=len(finished) + failed,
            failed=failed,
            running=len(trials) - len(finished) - failed,
            left=max(0, sweep.trials - len(trials)) if sweep.state == "open" else 0,
            best=value,
            best_commit=best.commit if best else None,
            best_values=best.values if best else {},
            importances=sweep.importances,
            note=sweep.note,
        )

    def _commit(self, commit: str) -> str:
        core = self._core
        sha = core.commit(commit)
        if core.ledger.proposal(sha) is None and not core.was_champion(sha):
            raise LabError(f"{sha[:12]} is neither a proposal nor a champion. Make a proposal of it with propose_patch.", "not_a_proposal")
        if sha in core.ledger.withdrawn():
            raise LabError(f"{WITHDRAWN.format(sha[:12])} Nothing was launched.", "withdrawn")
        if core.gate.broken_rule(sha):
            raise LabError(
                f"A check of the model of {sha[:12]} failed: nothing built on it can be promoted. Nothing was launched.", "barred"
            )
        return sha

    def _afford(self, trials: int) -> float:
        """Return the device seconds that trials take, about.

        Raises:
            LabError: `over_budget`, where less is left.
        """
        reserved = self._trainings.reserved(self._core.settings, None)
        each, left = reserved["expected_s"] or reserved["reserved_s"], self._status.budget().left_s
        if trials * each > left:
            raise LabError(
                f"{trials} trials take about {trials * each:.0f} device seconds, and {left:.0f} are left: enough for {int(left // each)}. "
                "Nothing was launched.",
                "over_budget",
            )
        return float(trials * each)


def _checked(name: str, asked: a.Range, constant: Constant) -> SweepParameter:
    """Return where a constant may lie.

    Raises:
        LabError: `bad_sweep`.
    """
    where = f"parameters.{one_line(name, 60)}"
    if asked.choices is not None:
        if asked.low is not None or asked.high is not None or asked.log:
            raise _bad(f"{where} takes choices, or low and high")
        try:
            values = [literal(each) for each in asked.choices]
        except ValueError as error:
            raise _bad(
                f"{where}.choices holds {str(error)[:40]!r}, which is no plain number, string ('in quotes') or truth value"
            ) from None
        if len({(type(each), each) for each in values}) < max(2, len(values)):
            raise _bad(f"{where}.choices needs two different values or more")
        if not all(isinstance(each, str) for each in values) and not all(isinstance(each, int | float) for each in values):
            raise _bad(f"{where}.choices mixes strings with numbers")
        return SweepParameter(path=constant.path, now=constant.text, choices=asked.choices)
    if asked.low is None or asked.high is None:
        raise _bad(f"{where} needs low and high, or choices")
    if isinstance(constant.value, str | bool):
        raise _bad(f"{where} is {constant.text[:40]} now, so it needs choices, not a range")
    if not (asked.low < asked.high and math.isfinite(asked.high - asked.low)):
        raise _bad(f"{where}.low must be less than its high, by a finite number")
    if asked.log and asked.low <= 0:
        raise _bad(f"{where}.low must be above 0 where log is true")
    whole = isinstance(constant.value, int)
    if whole and not (asked.low.is_integer() and asked.high.is_integer()):
        raise _bad(f"{where} is the whole number {constant.text[:40]} now: low and high must be whole too")
    return SweepParameter(path=constant.path, now=constant.text, low=asked.low, high=asked.high, log=bool(asked.log), whole=whole)


def _bad(why: str) -> LabError:
    return LabError(f"{why}. Nothing was launched.", "bad_sweep")
