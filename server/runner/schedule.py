"""What starts next in this lab: the order of launches (see `order`), applied to the ledger's queue.

The lab's own replicates of the champion are queued here, when their turn comes. Nobody else's stand for the champion at the gate, so
nobody can choose when it is measured.
"""

import logging
import secrets
import time
from collections.abc import Callable
from typing import Literal

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.gate import Gate
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.order import WINDOW, Launch, Waiting, next_launch, open_limit
from autoresearch_mcp.server.settings import Settings

LAB = "lab"  # the author of what the lab launches itself

_log = logging.getLogger("autoresearch.runner")


def in_turn(slots: int) -> int:
    """Return how many candidacies and commits can matter to what starts next: those whose turn it is, and a few behind them."""
    return open_limit(slots) + 4


class Schedule:
    """Chooses what a free slot starts. Only the runner's loop calls it.

    Args:
        settings: returns the lab's, as lab.toml has them now.
        ledger: where experiments are queued.
        repo: knows the champion.
        gate: tells which replicates of the champion are to be trained again.
        active: returns the experiments that have left the queue, as the loop has read them.
        fits: tells whether this loop can run an experiment.
        measures: tells whether this loop can run what is launched under the settings of now.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        ledger: Ledger,
        repo: Repo,
        gate: Gate,
        active: Callable[[], list[Experiment]],
        fits: Callable[[Experiment], bool],
        measures: Callable[[Settings], bool],
    ) -> None:
        self._current = settings
        self._ledger = ledger
        self._repo = repo
        self._gate = gate
        self._active = active
        self._fits = fits
        self._measures = measures
        self._unaffordable: int | None = None  # the ledger's version when the budget didn't cover a replicate of the champion
        self._choice: tuple[object, Experiment | Literal["champion"] | None] = (None, None)

    def choose(self) -> Experiment | Literal["champion"] | None:
        """Return what a free slot starts now: a queued experiment, a replicate of the champion, or nothing.

        Raises:
            LabError: the ledger or the repository can't be read.
        """
        key = (self._ledger.changes(), champion := self._repo.champion(), settings := self._current(), self._unaffordable)
        if self._choice[0] != key:
            self._choice = key, self._choose(champion, settings)
        return self._choice[1]

    def take(self, choice: Experiment | Literal["champion"]) -> Experiment | None:
        """Return the queued experiment of a choice. A replicate of the champion is queued first.

        Returns:
            None where the budget doesn't cover it.

        Raises:
            LabError: the ledger can't be written.
        """
        if isinstance(choice, Experiment):
            return choice
        champion, settings = self._repo.champion(), self._current()
        waiting = [e for e in self._ledger.queued_champion_replicates() if e.commit == champion and self._fits(e)]
        if waiting:  # one that was lost, or whose runner died before it started
            return waiting[0]
        version = self._ledger.changes()
        open_ = [*self._ledger.queued_champion_replicates(), *self._active()]
        training = {e.seed for e in open_ if e.by_lab}
        owed = [seed for seed in self._gate.champion_repeats(champion) if seed not in training]
        each, device = settings.longest_s(), settings.reference
        replicate = Experiment(
            id=new_id("e"),
            commit=champion,
            base=champion,
            author=LAB,
            hypothesis="replicate of the champion, launched by the lab",
            seed=owed[0] if owed else secrets.randbelow(2**31),
            device=device,
            created_at=time.time(),
            by_lab=True,
            reserved_s=each,
            reserved_usd=each * settings.usd_per_s(device),
        )
        try:
            self._ledger.enqueue([replicate], settings.budget.device_hours * 3600, None, "", settings.budget.usd, settings.launch())
        except LabError as error:
            if error.code != "over_budget":
                raise
            self._unaffordable = version
            _log.warning("no replicate of the champion: the budget does not cover it")
            return None
        return replicate

    def blocked(self) -> bool:
        """Return whether all that is queued was launched for another kind of training than this loop drives."""
        queued = [e for e, _ in self._ledger.first_queued([], 1)] or self._ledger.queued_champion_replicates()
        return bool(queued) and self.choose() is None and not any(map(self._fits, queued))

    def _choose(self, champion: str, settings: Settings) -> Experiment | Literal["champion"] | None:
        ledger, slots = self._ledger, settings.slots
        history = [Launch(each.commit, each.author, each.by_lab, each.authors) for each in ledger.starts(WINDOW)]
        active = self._active()
        candidacies = ledger.open_candidacies(limit=in_turn(slots))
        since = {each.id: each.created_at for each in candidacies}
        begun = {launch.commit for launch in history if not launch.by_lab}
        open_ = [each.commit for each in candidacies if each.commit in begun or each.replicates > 1]
        open_ += [e.commit for e in active if not e.by_lab]
        first = {*open_, *begun, *(each.commit for each in candidacies)}
        heads = [(e, more) for e, more in ledger.first_queued(sorted(first), in_turn(slots)) if self._fits(e)]
        queued = sorted((e for e, _ in heads), key=lambda e: since.get(e.candidacy, e.created_at))  # a rebased candidacy keeps its place
        single = {e.id for e, more in heads if not (more or e.candidacy or e.commit in begun)}
        open_ += [e.commit for e in queued if e.commit in begun]
        open_ = [commit for commit in dict.fromkeys(open_) if commit != champion]
        apart = {champion, *ledger.measurements()}
        reference = settings.reference
        compares = any(e.device == reference and not e.reproduces and e.commit not in apart for e in (*active, *queued))
        is_due = bool(compares or candidacies) and self._is_compared(settings)
        for e in ledger.queued_champion_replicates():
            if e.commit != champion or not is_due:
                ledger.request_cancel(e.id, LAB)
        choice = next_launch(
            history,
            [Launch(e.commit, e.author, e.by_lab) for e in active],
            open_,
            [Waiting(e.commit, e.author, e.id, e.id in single) for e in queued],
            champion,
            self._measured(champion, settings) if is_due and not self._is_unaffordable() else None,
            slots,
        )
        if isinstance(choice, Waiting):
            return next(e for e in queued if e.id == choice.id)
        return choice

    def _measured(self, champion: str, settings: Settings) -> int:
        """Count the replicates of the champion that count or may still count."""
        launched = self._ledger.champion_replicates(champion, settings.launch())
        return max(0, len(launched) - len(self._gate.champion_repeats(champion))) if launched else 0

    def _is_compared(self, settings: Settings) -> bool:
        """Return whether this loop can measure the champion, and the gate would count it."""
        reported = settings.trust == "reported" and settings.promotion.reported == "refuse"
        return not reported and self._measures(settings)

    def _is_unaffordable(self) -> bool:
        return self._unaffordable is not None and self._unaffordable == self._ledger.changes()
