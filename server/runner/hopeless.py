"""Stops trainings that are hopeless, where `[training] stop_hopeless` asks for it. See `pace` for what is compared.

Only a commit's first training is ever stopped. A replicate of the champion never is, nor a second run with the same seed. Every 20th that would be
stopped goes on instead, and its record says so: `autoresearch-mcp audit` tells how many of those won.

A stop is marked in the ledger as a cancellation with a failure of kind `hopeless`, so that a runner that takes over knows it.
"""

import hashlib
import time
from collections.abc import Sequence

from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment, Failure
from autoresearch_mcp.server.pace import SPARED, Pace, Paces

KIND = "hopeless"
SPARED_ONE_IN = 20
LOOK_S = 1.0  # between two looks at one training
_ADVICE = "Drop the idea, or propose a milder form of it. Launch it again only if you know why its curve starts worse and ends better."


class Hopeless:
    """Watches running trainings and asks for the end of those that are hopeless. Only the runner's loop calls it."""

    def __init__(self, ledger: Ledger, paces: Paces) -> None:
        self._ledger = ledger
        self._paces = paces
        self._looked: dict[str, float] = {}

    def watch(self, e: Experiment) -> None:
        """Look at a running experiment, and mark it in the ledger if it is hopeless.

        Args:
            e: as the ledger has it now.

        Raises:
            LabError: the ledger can't be used.
        """
        now = time.monotonic()
        if e.cancel_requested or SPARED in e.details or now - self._looked.get(e.id, -LOOK_S) < LOOK_S:
            return
        self._looked = {id: at for id, at in self._looked.items() if now - at < 60 * LOOK_S} | {e.id: now}
        pace = self._paces.of(e)
        if pace is None or not pace.hopeless or not self._is_first(e):
            return
        if is_spared(e.id):
            self._ledger.move(e.id, ACTIVE_STATES, details=e.details | {SPARED: _words(pace)})
        else:
            failure = Failure(kind=KIND, message=f"Stopped early: {_words(pace)}.", advice=_ADVICE)
            self._ledger.move(e.id, ACTIVE_STATES, cancel_requested=True, failure=failure)

    def _is_first(self, e: Experiment) -> bool:
        """Return whether an experiment is the first training of a proposal."""
        return not e.reproduces and e.commit != e.base and e.id == min(self._of_commit(e.commit))

    def _of_commit(self, commit: str) -> Sequence[str]:
        ended = [row["id"] for row in self._ledger.ended_of(commit) if not row["reproduces"]]
        return [*ended, *(e.id for e in self._ledger.open_experiments() if e.commit == commit and not e.reproduces)]


def is_stopped(e: Experiment) -> bool:
    """Return whether an experiment that is to be cancelled is one that was stopped early."""
    return e.failure is not None and e.failure.kind == KIND


def is_spared(id: str) -> bool:
    """Return whether an experiment goes on even if it is hopeless: one in 20, by a hash of its id."""
    return int(hashlib.sha256(id.encode()).hexdigest(), 16) % SPARED_ONE_IN == 0


def _words(pace: Pace) -> str:
    return f"at {pace.share:.0%} of the budget its loss was {pace.sd_worse:.1f} sd worse than that of {pace.curves} runs of the champion"
