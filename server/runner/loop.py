"""The loop that drives a lab's experiments (`process.py` is the process around it).

It alone submits to the compute backend, moves experiments that left the queue, and writes to the lake. All it knows is in the
ledger and in the run directories, so it can be killed at any instant. The next one adopts what runs and records what ended
meanwhile. It queues what was lost again, once, and what never began as often as a runner dies.
"""

import asyncio
import logging
import math
import time
from pathlib import Path

from autoresearch_mcp.server.compute.base import Compute, ComputeError
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.gate import Gate
from autoresearch_mcp.server.lake.base import Lake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.retry import Backoff, woken
from autoresearch_mcp.server.runner.attempts import Attempts
from autoresearch_mcp.server.runner.candidacies import Candidacies
from autoresearch_mcp.server.runner.flushing import Flusher
from autoresearch_mcp.server.runner.health import HealthFile
from autoresearch_mcp.server.runner.preparation import Preparation
from autoresearch_mcp.server.runner.queue import QueueView
from autoresearch_mcp.server.runner.retention import Retention
from autoresearch_mcp.server.runner.schedule import Schedule
from autoresearch_mcp.server.runner.spending import Spending
from autoresearch_mcp.server.runner.start import got_to_work
from autoresearch_mcp.server.runner.sweeps import Sweeps
from autoresearch_mcp.server.runner.watch import LabMoved, LabWatch, Outcome, SettingsChanged
from autoresearch_mcp.server.settings import BudgetSection, Settings

LINGER_S = 20.0  # idle time before it exits; an agent's next call often comes within it
ROUND_RETRY_S = (1.0, 60.0)  # first and longest wait after a round that failed
LOOK_S = 0.25  # each run is looked at so often,
AT_ONCE = 32  # in every round where these are all, and in turn beyond: a round costs about the same with many slots
START_S = 0.008  # after which a round of more slots leaves further starts to the next one, which follows at once
GIVE_UP_S = 600.0  # idle time after which an unreachable lake no longer keeps it alive: the ledger keeps the rows

_log = logging.getLogger("autoresearch.runner")


class Runner:
    """Drives one lab. Hold the lab's runner lock while it lives.

    Args:
        settings: the lab's, for as long as the loop runs.
        state: the lab's state folder.
        ledger: where experiments are queued.
        repo: where their code is.
        lake: where what has ended goes.
        compute: where trainings run.
        watch: tells when to leave, as the lab has other settings or is gone.

    Attributes:
        stopping: set it to make `run` return soon. Trainings run on.
    """

    def __init__(
        self, settings: Settings, state: Path, ledger: Ledger, repo: Repo, lake: Lake, compute: Compute, watch: LabWatch | None = None
    ) -> None:
        self._settings = settings
        self._state = state
        self._ledger = ledger
        self._compute = compute
        self._watch = watch
        self._queue = QueueView(ledger)
        self._health = HealthFile(state)
        self._preparation = Preparation(compute, self._health)
        self._spending = Spending(settings, state, ledger, compute)
        self._attempts = Attempts(settings, state, ledger, repo, compute, self._spending, self._check_place)
        gate = Gate(ledger, self._current_settings)
        self._candidacies = Candidacies(self._current_settings, ledger, repo, gate)
        self._sweeps = Sweeps(self._current_settings, ledger, repo)
        can_run = self._attempts.fits, self._attempts.measures
        self._schedule = Schedule(self._current_settings, ledger, repo, gate, self._queue.active, *can_run)
        self._flusher = Flusher(state, ledger, lake)
        self._retention = Retention(settings.lab, state, ledger, repo)
        self._active = time.monotonic()
        self._waits_for_budget: tuple[int, BudgetSection] | None = None  # the ledger's version and the budget when too little was left
        self._looked = -math.inf  # when the last round began to look at runs
        self._starts_more = False  # as there was no time for it in the last round
        self.stopping = asyncio.Event()

    async def run(self, linger_s: float = LINGER_S) -> Outcome:
        """Work until there has been nothing to do for `linger_s`, or there is another reason to leave. Returns which."""
        try:
            outcome = await self._rounds(linger_s)
            got_to_work(self._state)
            return outcome
        except SettingsChanged:
            _log.info("the settings have changed: the loop begins again with the new ones")
            return "new settings"
        except LabMoved as error:
            _log.warning("%s This runner leaves; the next call starts another where the lab is.", error)
            return "moved"
        finally:
            await self._leave()

    async def _rounds(self, linger_s: float) -> Outcome:
        backoff, adopted, noted = Backoff(ROUND_RETRY_S), False, False
        while not self.stopping.is_set():
            try:
                if not adopted:
                    self._check_place()
                    await self._attempts.adopt_all()
                    adopted = True
                idle_s = await self._round()
                idle = idle_s > linger_s and await self._all_flushed(idle_s)
                if not (noted or self._flusher.busy):  # a whole round and a flush: it does not die at once
                    got_to_work(self._state)
                    noted = True
                backoff.succeeded()
                self._health.round_done([*self._compute.troubles(), *self._flusher.troubles])  # also what the last flush saw
                if idle:
                    return "idle"
            except (LabMoved, SettingsChanged):
                raise
            except Exception as error:  # a full disk, a busy ledger, a fault of ours: what is written stays true, so try again
                self._check_place()
                _log.error("A round failed, and is tried again: %s", error, exc_info=not isinstance(error, LabError))
                self._health.round_failed(str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}.")
                await self._pause(backoff.failed())
            await self._pause(0.0 if self._starts_more else self._compute.poll_s)
        return "stopped"

    async def _round(self) -> float:
        """Advance the experiments whose turn it is. Returns for how many seconds there has been nothing to do."""
        self._check_place()
        self._check_settings()
        outcomes = await asyncio.gather(*map(self._attempts.advance, self._in_turn()), return_exceptions=True)
        for failure in outcomes:  # all of them are over: none goes on beside the next round
            if failure is not None:
                raise failure
        self._spending.enforce_budget(self._queue.active())
        await self._candidacies.advance()
        await self._sweeps.advance()
        await self._start_queued()
        await self._flusher.start_if_due()
        self._retention.start_if_due(quiet=not self._queue.any())
        if self._queue.any() or self._candidacies.any() or self._sweeps.any():
            self._active = time.monotonic()
            return 0.0
        return time.monotonic() - self._active

    def _in_turn(self) -> list[Experiment]:
        """Return the active experiments that this round looks at."""
        before, self._looked = self._looked, time.monotonic()
        part = min(1.0, (self._looked - before) / self._compute.poll_s)  # fewer where a round followed at once
        often_enough = len(self._queue.active()) * self._compute.poll_s / LOOK_S
        return self._queue.next_active(math.ceil(max(AT_ONCE, often_enough) * part))

    async def _start_queued(self) -> None:
        """Start what the slots allow, in the schedule's order. Nothing starts while the data is prepared, which costs nothing."""
        self._starts_more = False
        if (free := self._free_slots()) <= 0 or self._queue.paused():
            return
        if (choice := self._schedule.choose()) is None:
            await self._leave_queue()
            return
        budget = self._current_settings().budget
        if self._waits_for_budget == (self._ledger.changes(), budget):
            return
        try:
            data = await self._preparation.data() if not self._settings.is_script else ""
        except ComputeError as error:
            self._check_place()
            for experiment in self._ledger.open_experiments("queued"):
                self._attempts.refuse(experiment, str(error))
            return
        began = time.monotonic()
        while data is not None and choice is not None and not self._queue.paused():
            self._check_settings()  # after the queue was read: what was queued after a change starts after it
            if (next_ := self._schedule.take(choice)) is not None:
                if not await self._attempts.start(next_, data, budget):
                    self._waits_for_budget = self._ledger.changes(), budget
                    return
                free -= 1
            if free <= 0:
                return
            if self._settings.slots > AT_ONCE and time.monotonic() - began > START_S:
                self._starts_more = True  # the next round chooses, when it has seen what happened meanwhile
                return
            choice = self._schedule.choose()

    async def _leave_queue(self) -> None:
        """Do what is due when nothing can be started.

        Raises:
            SettingsChanged: what waits was launched for other trainings, and those of this loop have ended.
        """
        if not self._queue.queued(1):
            await self._preparation.cancel()
        elif not self._queue.active() and self._schedule.blocked():
            raise SettingsChanged

    def _current_settings(self) -> Settings:
        """Return the lab's settings, where this loop drives what was launched under older ones."""
        return self._watch.settings if self._watch is not None else self._settings

    def _check_place(self) -> None:
        if self._watch is not None:
            self._watch.check_place()

    def _check_settings(self) -> None:
        if self._watch is not None:
            self._watch.check_settings()

    def _free_slots(self) -> int:
        """Count the slots that nobody holds.

        A run holds its slot from its start to the end of training. While it is scored it holds it only where no core is free to score
        on beside full slots.
        """
        active = self._queue.active()
        scored_beside = min(sum(e.state == "scoring" for e in active), self._compute.scored_beside(self._settings.slots))
        return self._settings.slots - len(active) + scored_beside

    async def _all_flushed(self, idle_s: float) -> bool:
        """Flush before leaving. Returns whether everything is in the lake, or the lake was away for too long."""
        await self._flusher.wait()
        await self._retention.wait()
        if self._flusher.keeps_up:  # else its next turn comes in `_round`
            await self._flusher.flush()
        return not self._ledger.unflushed() or idle_s > GIVE_UP_S

    async def _leave(self) -> None:
        await self._preparation.cancel()
        if self.stopping.is_set():
            await asyncio.to_thread(self._flusher.close)
        for beside in (self._sweeps, self._flusher):
            try:
                await beside.wait()
            except Exception as error:  # the ledger has what was not done
                _log.warning("what was under way failed: %s", error)
        await self._retention.wait()
        await self._spending.close()
        await self._compute.close()

    async def _pause(self, seconds: float) -> None:
        await woken(self.stopping, seconds)
