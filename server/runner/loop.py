"""The loop that drives a lab's experiments (`process.py` is the process around it).

It alone submits to the compute backend, moves experiments that left the queue, and writes to the lake. All it knows is in the
ledger and in the run directories, so it can be killed at any instant. The next one adopts what runs and records what ended
meanwhile. It queues what was lost again, once, and what never began as often as a runner dies.
"""

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from autoresearch_mcp.server.compute.base import Compute
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake.base import Lake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.retry import Backoff
from autoresearch_mcp.server.runner.attempts import Attempts
from autoresearch_mcp.server.runner.flushing import Flusher
from autoresearch_mcp.server.runner.spending import Spending
from autoresearch_mcp.server.settings import Settings

LINGER_S = 20.0  # idle time before it exits; an agent's next call often comes within it
ROUND_RETRY_S = (1.0, 60.0)  # first and longest wait after a round that failed
GIVE_UP_S = 600.0  # idle time after which an unreachable lake no longer keeps it alive: the ledger keeps the rows

_log = logging.getLogger("autoresearch.runner")


class Runner:
    """Drives one lab. Hold the lab's runner lock while it lives."""

    def __init__(self, settings: Settings, state: Path, ledger: Ledger, repo: Repo, lake: Lake, compute: Compute) -> None:
        self._settings = settings
        self._ledger = ledger
        self._compute = compute
        self._spending = Spending(settings, state, ledger, compute)
        self._attempts = Attempts(settings, state, ledger, repo, compute, self._spending)
        self._flusher = Flusher(state, ledger, lake)
        self._active = time.monotonic()
        self.stopping = asyncio.Event()

    async def run(self, linger_s: float = LINGER_S) -> None:
        """Work until there has been nothing to do for `linger_s`, or `stopping` is set."""
        try:
            await self._attempts.adopt_all()
            backoff = Backoff(ROUND_RETRY_S)
            while not self.stopping.is_set():
                try:
                    idle_s = await self._round()
                    backoff.succeeded()
                except Exception as error:  # a full disk, a busy ledger, a fault of ours: what is written stays true, so try again
                    _log.error("A round failed, and is tried again: %s", error, exc_info=not isinstance(error, LabError))
                    idle_s = 0.0
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.stopping.wait(), backoff.failed())
                if idle_s > linger_s:
                    await self._flusher.wait()
                    if self._flusher.keeps_up:  # else its next turn comes in `_round`
                        await self._flusher.flush()
                    if not self._ledger.unflushed() or idle_s > GIVE_UP_S:
                        break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), self._compute.poll_s)
        finally:
            if self.stopping.is_set():
                await asyncio.to_thread(self._flusher.close)
            with contextlib.suppress(LabError):
                await self._flusher.wait()
            await self._spending.close()
            await self._compute.close()

    async def _round(self) -> float:
        """Look at everything once. Returns for how long there has been nothing to do."""
        await asyncio.gather(*(self._attempts.advance(e) for e in self._ledger.open_experiments(*ACTIVE_STATES)))
        self._spending.look_after_money()
        if (free := self._free_slots()) > 0:
            for experiment in self._ledger.open_experiments("queued")[:free]:
                await self._attempts.start(experiment)
        await self._flusher.start_if_due()
        if self._ledger.open_experiments():
            self._active = time.monotonic()
            return 0.0
        return time.monotonic() - self._active

    def _free_slots(self) -> int:
        """A slot is held from start to the end of training. Scoring holds it on only where no core is free to score on beside full slots."""
        active = self._ledger.open_experiments(*ACTIVE_STATES)
        scored_beside = min(sum(e.state == "scoring" for e in active), self._compute.scored_beside(self._settings.slots))
        return self._settings.slots - len(active) + scored_beside
