"""Money where devices are rented: what attempts cost, the cap, the provider's bills, and sandboxes that nobody needs."""

import asyncio
import logging
import time
from pathlib import Path

from autoresearch_mcp.server.compute.base import Compute, ComputeError
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.settings import Settings

CLEANUP_EVERY_S = 300.0  # between two searches for orphaned sandboxes and new bills
BILL_AFTER_S = 600.0  # from an end to its bill
BILL_WITHIN_S = 7 * 86_400.0  # after which the estimate stands

_log = logging.getLogger("autoresearch.runner")


class Spending:
    """Counts what experiments cost and keeps the lab within its budget."""

    def __init__(self, settings: Settings, state: Path, ledger: Ledger, compute: Compute) -> None:
        self._settings = settings
        self._state = state
        self._ledger = ledger
        self._compute = compute
        self._held_s: dict[str, float] = {}
        self._cleanup: asyncio.Task[None] | None = None
        self._next_cleanup_at = 0.0

    def note_held(self, id: str, device_s: float | None) -> None:
        """Remember for how many seconds a running experiment has held its device."""
        self._held_s[id] = device_s or 0.0

    def cost(self, experiment: Experiment, device_s: float | None) -> dict[str, float]:
        """Return what an experiment has cost with this attempt, as changes to it.

        Args:
            experiment: as it was while the attempt ran.
            device_s: how long the attempt held its device; None: ever since it was started.
        """
        seconds = _elapsed(experiment) if device_s is None else device_s
        cost = {"cost_s": experiment.cost_s + seconds}
        if self._settings.rents:
            cost["cost_usd"] = experiment.cost_usd + seconds * self._settings.usd_per_s(experiment.device)
        return cost

    def enforce_budget(self, active: list[Experiment]) -> None:
        """Stop everything at the cap, and start the cleanup of sandboxes and bills if it is due. Does nothing where no device is rented.

        Args:
            active: the experiments that have left the queue.
        """
        if self._settings.rents:
            self._start_cleanup_if_due()
            self._stop_at_the_cap(active)

    async def close(self) -> None:
        """Abandon the cleanup under way."""
        if self._cleanup is not None:
            self._cleanup.cancel()
            await asyncio.wait({self._cleanup})

    def _stop_at_the_cap(self, active: list[Experiment]) -> None:
        """Cancel everything once the budget is spent.

        Launches reserve the most that they can cost, so this happens only where lab.toml or the provider's bills changed the sum.
        """
        cap = self._settings.budget.usd
        self._held_s = {e.id: self._held_s.get(e.id, 0.0) for e in active}
        spent = self._ledger.money()[0] + sum(self._held_s[e.id] * self._settings.usd_per_s(e.device) for e in active)
        for experiment in self._ledger.open_experiments() if spent >= cap else []:
            if not experiment.cancel_requested:
                _log.error("%s is stopped: $%.2f of [budget] usd = %.2f are spent, what runs included", experiment.id, spent, cap)
                self._ledger.request_cancel(experiment.id)

    def _start_cleanup_if_due(self) -> None:
        if time.monotonic() < self._next_cleanup_at or (self._cleanup is not None and not self._cleanup.done()):
            return
        self._next_cleanup_at = time.monotonic() + CLEANUP_EVERY_S
        self._cleanup = asyncio.create_task(self._end_orphans_and_settle_bills())  # beside the rounds: the service may be slow

    async def _end_orphans_and_settle_bills(self) -> None:
        try:
            for ended in await self._compute.orphans(self._active_attempts):
                _log.warning("ended %s: no experiment needs it", ended)
            now = time.time()
            for id, attempt in self._ledger.unsettled(now - BILL_AFTER_S):
                if (usd := await self._compute.cost(StatePaths(self._state).run(id, attempt))) is not None:
                    self._ledger.settle_bill(id, attempt, usd)
            for id, attempt in self._ledger.unsettled(now - BILL_WITHIN_S):
                self._ledger.settle_bill(id, attempt, None)
        except (ComputeError, LabError) as error:
            _log.warning("sandboxes and bills are checked again later: %s", error)
        except Exception:  # nobody awaits this task before the runner leaves
            _log.exception("the cleanup failed, and is tried again later")

    def _active_attempts(self) -> set[tuple[str, int]]:
        return {(e.id, e.attempt) for e in self._ledger.open_experiments(*ACTIVE_STATES)}


def _elapsed(experiment: Experiment) -> float:
    """Return the device seconds since it was started, at most what was reserved: when no runner lived, its end is noticed late."""
    return min(max(0.0, time.time() - experiment.started_at), experiment.reserved_s) if experiment.started_at else 0.0
