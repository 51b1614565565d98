"""Stopping trainings, launches until decided and sweeps: some by id, all of a commit, or all of one's own."""

import re
import time
from collections.abc import Sequence

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore, checked_id
from autoresearch_mcp.server.models import OWNER, Candidacy, Experiment, Sweep
from autoresearch_mcp.server.untrusted import clean, one_line

_CANDIDACY = re.compile(r"c-[0-9a-z]{15}")
_SWEEP = re.compile(r"s-[0-9a-z]{15}")
_NAMED = 8  # ids that a note names
Open = Experiment | Candidacy | Sweep


class Cancelling:
    """The use case of cancelling."""

    def __init__(self, core: LabCore) -> None:
        self._core = core

    def cancel(
        self,
        author: str,
        ids: Sequence[str] | None = None,
        commit: str | None = None,
        mine: bool = False,
        reason: str = "",
        anyones: bool = False,
    ) -> a.CancelAnswer:
        """Stop experiments, launches until decided and sweeps, all or none of those that are named by id; what has ended stays as it is.

        Args:
            author: who asks, for the record.
            ids: of experiments, launches until decided and sweeps. Exactly one of `ids`, `commit` and `mine` is given.
            commit: all of it that is open: the caller's, and with `anyones` also others', but not what the lab itself launched.
            mine: all that is open of the caller's.
            reason: needed where something is another's, but of the lab's owner. Its author is told, once.
            anyones: whether it may be another's, as for an orchestrator and the lab's owner.

        Raises:
            LabError: `bad_arguments`, `not_yours`, `no_reason`, `bad_id`, `unknown_experiment`, `lake_unavailable`.
        """
        if [bool(ids), commit is not None, mine].count(True) != 1:
            raise LabError("Say what to cancel in exactly one way: ids, commit or mine=true. Nothing was changed.", "bad_arguments")
        chosen = [self._known(id) for id in dict.fromkeys(ids)] if ids else self._open(self._core.commit(commit) if commit else None)
        if mine:
            chosen = [each for each in chosen if each.author == author]
        open_ = [each for each in chosen if _is_open(each)]
        theirs = [each for each in open_ if each.author != author]
        kept: list[Open] = []
        if theirs and not anyones:
            if ids:
                raise LabError(_refusal(theirs[0], author), "not_yours")
            kept, open_ = theirs, [each for each in open_ if each.author == author]
        elif theirs and not reason.strip() and author != OWNER:
            others = ", ".join(sorted({one_line(each.author, 64) for each in theirs}))
            raise LabError(f"Some of it was launched by {others}: say why, in `reason`. They are told. Nothing was changed.", "no_reason")
        back = sum(map(_freed_s, self._with_trainings(open_)))
        changed = self._core.ledger.cancel([each.id for each in open_], author, clean(reason).strip()[:300])
        if changed:
            self._core.wake()
        states = {each.id: each.state for each in chosen if each not in kept and each.id not in changed} | changed
        return a.CancelAnswer(states=dict(sorted(states.items())), freed_s=round(back, 1), note=self._note(chosen, changed, kept, back))

    def _known(self, id: str) -> Open:
        if id.startswith("s-"):
            if (sweep := self._core.ledger.sweep(checked_id(id, _SWEEP, "a sweep"))) is None:
                raise LabError(f"There is no sweep {id}.", "unknown_experiment")
            return sweep
        if not id.startswith("c-"):
            return self._core.experiment(id)
        candidacy = self._core.ledger.candidacy(checked_id(id, _CANDIDACY, "a launch until decided"))
        if candidacy is None:
            raise LabError(f"There is no launch until decided {id}.", "unknown_experiment")
        return candidacy

    def _open(self, commit: str | None) -> list[Open]:
        """Return what is open of a commit, or of everything. The lab's own is not among it, and no training of a candidacy that is."""
        ledger = self._core.ledger
        candidacies = [each for each in ledger.open_candidacies() if commit in (None, each.commit)]
        sweeps = [each for each in ledger.open_sweeps() if commit in (None, each.commit)]
        covered = {each.id for each in candidacies} | {each.id for each in sweeps}
        open_ = [e for e in ledger.open_experiments() if commit in (None, e.commit) and not e.by_lab]
        return [*candidacies, *sweeps, *(e for e in open_ if covered.isdisjoint([e.candidacy, *e.tags]))]

    def _with_trainings(self, open_: Sequence[Open]) -> list[Experiment]:
        """Return the experiments among these, and those of the candidacies and sweeps among them."""
        ids = {each.id for each in open_}
        return [e for e in self._core.ledger.open_experiments() if e.id in ids or not ids.isdisjoint([e.candidacy, *e.tags])]

    @staticmethod
    def _note(chosen: Sequence[Open], changed: dict[str, str], kept: Sequence[Open], back: float) -> str:
        notes = []
        if not changed:
            notes.append(
                "It had ended before; nothing was changed." if chosen and not kept else "Nothing of it is open; nothing was changed."
            )
        else:
            stopping = [id for id, state in changed.items() if id.startswith("e-") and state != "cancelled"]
            notes.append(f"About {back:.0f} s came back to the budget." if back else "")
            if any(id.startswith("c-") for id in changed):
                notes.append("No other replicate starts; if the commit is launched again, a seed that was stopped is trained again.")
            if any(id.startswith("s-") for id in changed):
                notes.append("No other trial starts; those that ended stay as they are.")
            if stopping:
                notes.append("What runs is being stopped; wait_for_experiments tells when it has ended.")
            elif len(changed) == 1 and next(iter(changed)).startswith("e-"):
                notes.append("It was still queued; it will not start.")
        if kept:
            names = ", ".join(each.id for each in kept[:_NAMED])
            notes.append(f"Left alone, as others launched it: {names}{' and more' if len(kept) > _NAMED else ''}.")
        return " ".join(filter(None, notes))


def _is_open(each: Open) -> bool:
    return not each.terminal if isinstance(each, Experiment) else each.state == "open"


def _freed_s(e: Experiment) -> float:
    """Return the device seconds that the budget gets back when an experiment ends now."""
    running = time.time() - e.started_at if e.state != "queued" and e.started_at is not None else 0.0
    return max(0.0, e.held_s - e.cost_s - running)


def _refusal(each: Open, author: str) -> str:
    if isinstance(each, Experiment) and each.by_lab:
        return f"{each.id} is the lab's own: it measures the champion beside the candidates. Nothing was changed."
    who = one_line(each.author, 64)
    return (
        f"{each.id} was launched by {who}, so {one_line(author, 64)} can't cancel it. {who}, an orchestrator, or the lab's owner can "
        f"(`autoresearch-mcp cancel {each.id}`). Nothing was changed."
    )
