"""Launches until decided: asks the gate after each replicate, and queues the next one until the gate has decided.

All that this knows is in the ledger, and every step can be repeated: a runner that was killed between any two of them is continued by
the next one. A candidacy has at most one open experiment, which the ledger sees to.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.boundary import M_MIN
from autoresearch_mcp.server.gate.gate import Gate
from autoresearch_mcp.server.gate.stacking import stack
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.ledger.budget import Share
from autoresearch_mcp.server.ledger.starts import settings_hash
from autoresearch_mcp.server.models import Candidacy, CandidacyState, Experiment, Verdict, new_id
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.attempts import OVER_BUDGET
from autoresearch_mcp.server.runner.schedule import LAB, in_turn
from autoresearch_mcp.server.settings import Settings

UNDECIDED = ("continue", "champion")  # verdicts after which the lab goes on
SLICE_S = 0.1  # after which what is queued may start before the other candidacies are looked at
LEFT_BEHIND = 3  # replicates of the champion under one set of conditions, by which a candidate's own are of the past
MOST = 3  # launches for each replicate that may count: failures and repetitions end somewhere

_log = logging.getLogger("autoresearch.runner")


class Candidacies:
    """Drives the open candidacies of a lab. Only the runner's loop calls it.

    Args:
        settings: returns the lab's, as lab.toml has them now.
        ledger: where candidacies are.
        repo: knows the champion.
        gate: decides.
    """

    def __init__(self, settings: Callable[[], Settings], ledger: Ledger, repo: Repo, gate: Gate) -> None:
        self._current = settings
        self._ledger = ledger
        self._repo = repo
        self._gate = gate
        self._done: object = None  # the lab as it was when all had been looked at
        self._began: object = None  # the lab as it was when the present turn began
        self._looked_at = set[str]()  # in that turn
        self._cleared = ""  # the champion of which no earlier one's replicates are queued any more
        self._on_champion, self._built_on_it = "", set[str]()

    async def advance(self) -> None:
        """Ask the gate about every open candidacy whose replicate ended, and queue what comes next.

        A turn that takes long, as after a promotion, goes on with the next call, so that slots don't wait for the last of them.

        Raises:
            LabError: the ledger or the repository can't be used.
        """
        key = self._ledger.changes(), self._repo.champion(), self._current()
        if not self._looked_at:
            self._began = key
        if key != self._done and self.any() and not await asyncio.to_thread(self._advance):  # the first verdict imports scipy
            return
        self._looked_at.clear()
        self._done = self._began

    def any(self) -> bool:
        """Return whether any candidacy is open."""
        return bool(self._ledger.open_candidacies(limit=1))

    def _advance(self) -> bool:
        """Take the next candidacies of this turn a step further. Returns whether the turn is over."""
        import scipy.special  # noqa: F401 - before the first verdict, while trainings run: slots would wait for it

        until = time.monotonic() + SLICE_S
        champion, training = self._repo.champion(), self._ledger.open_trainings()
        near = self._ledger.open_candidacies(limit=in_turn(self._current().slots))  # the others wait, whatever becomes of them
        if champion != self._cleared:
            for candidacy in near:
                if self._is_stale(candidacy.commit, champion):
                    self._cancel_queued(training.get(candidacy.id, []))
            training, self._cleared = self._ledger.open_trainings(), champion
        for candidacy in near:
            if candidacy.id in self._looked_at:
                continue
            try:
                self._step(candidacy, champion, training.get(candidacy.id, []))
            except LabError as error:
                if error.code in ("read_only", "disk_full", "busy", "ledger_unusable"):
                    raise
                self._end(candidacy, "stopped", "", str(error))
            self._looked_at.add(candidacy.id)
            if time.monotonic() >= until:
                return False
        return True

    def _step(self, candidacy: Candidacy, champion: str, training: list[str]) -> None:
        """Take one candidacy as far as it goes without waiting."""
        if self._is_stale(candidacy.commit, champion):
            self._cancel_queued(training)
            if self._ledger.open_trainings().get(candidacy.id):
                return  # what runs may end first
            moved = self._rebase(candidacy, champion)
            if moved is None:
                return
            candidacy = moved
        elif training:
            return
        if why := self._never_starts(candidacy):
            self._end(candidacy, "out_of_budget" if OVER_BUDGET in why else "stopped", "", why)
            return
        verdict = self._gate.verdict(candidacy.commit, champion)
        settings = self._current()
        if verdict.code not in UNDECIDED:
            self._end(candidacy, "decided", verdict.code, _words(verdict))
        elif candidacy.replicates >= MOST * settings.promotion.max_replicates:
            self._end(candidacy, "stopped", verdict.code, f"{candidacy.replicates} trainings did not decide it. {_words(verdict)}")
        elif verdict.code == "champion" and (verdict.p is not None or verdict.n >= settings.promotion.max_replicates):
            self._wait_for_champion(candidacy, champion, verdict, settings)
        else:
            self._train(candidacy, champion, verdict, settings)

    def _is_stale(self, commit: str, champion: str) -> bool:
        """Return whether a commit is not built on the champion."""
        if self._on_champion != champion:
            self._on_champion, self._built_on_it = champion, set()
        if commit not in self._built_on_it and self._repo.is_ancestor(champion, commit):
            self._built_on_it.add(commit)
        return commit not in self._built_on_it

    def _rebase(self, candidacy: Candidacy, champion: str) -> Candidacy | None:
        """Put a candidacy's change on top of a champion that moved.

        Returns:
            The candidacy with its new commit and no replicates; None if it ended.
        """
        proposal = self._ledger.proposal(candidacy.commit)
        if self._ledger.proposal_of(champion) == candidacy.commit or self._repo.is_ancestor(candidacy.commit, champion):
            self._end(candidacy, "decided", "is_champion", "It is the champion.")
            return None
        assert proposal is not None, candidacy.commit  # what can be a candidate was checked at the launch
        try:
            stacked = stack(proposal, champion, self._repo, self._ledger)
        except LabError as error:
            if error.code != "no_change":
                raise
            self._end(candidacy, "decided", "already_in", f"The champion {champion[:12]} has this change already.")
            return None
        if stacked is None:
            why = f"The champion moved to {champion[:12]}, and both change the same lines. Propose the idea anew on that champion."
            self._end(candidacy, "stopped", "stale_base", why)
            return None
        note = f"The champion moved to {champion[:12]}. The change was rebased onto it as {stacked.commit[:12]}, and starts again."
        return self._ledger.move_candidacy(candidacy.id, commit=stacked.commit, replicates=0, verdict="", note=note)

    def _train(self, candidacy: Candidacy, champion: str, verdict: Verdict, settings: Settings) -> None:
        """Queue the next replicate. A seed that is owed comes first."""
        owed = self._gate.repeats(candidacy.commit, champion)
        proposal = self._ledger.proposal(candidacy.commit)
        assert proposal is not None, candidacy.commit
        each, launch = settings.longest_s(), settings.launch()
        price = each * settings.usd_per_s(candidacy.device)
        spent, more = (candidacy.spent_usd, price) if settings.rents else (candidacy.spent_s / 3600, each / 3600)
        if candidacy.budget is not None and spent + more > candidacy.budget:
            why = f"Another replicate could pass its budget of {candidacy.budget:g}, of which {spent:.4g} are used. {_words(verdict)}"
            self._end(candidacy, "out_of_budget", verdict.code, why)
            return
        under = settings_hash(launch.model_dump_json())
        replicates = candidacy.replicates if candidacy.settings in ("", under) else 0  # what ran under other settings counts no more
        if candidacy.device not in settings.devices[:1]:
            self._end(candidacy, "stopped", verdict.code, f"This lab no longer compares on {candidacy.device}. {_words(verdict)}")
            return
        self._note(candidacy, verdict=verdict.code, note=_words(verdict), settings=under, replicates=replicates)
        replicate = Experiment(
            id=new_id("e"),
            commit=candidacy.commit,
            base=proposal.base,
            author=candidacy.author,
            hypothesis=proposal.hypothesis,
            tags=sorted({*candidacy.tags, *proposal.tags}),
            seed=owed[0] if owed else secrets.randbelow(2**31),
            device=candidacy.device,
            created_at=time.time(),
            candidacy=candidacy.id,
            reserved_s=each,
            expected_s=min(self._ledger.typical_s(launch, candidacy.device) or 0.0, each),
            reserved_usd=price,
        )
        try:
            share = replace(Share.of(settings.swarm), queued=0)  # the launch was accepted: its replicates wait one at a time
            self._ledger.enqueue([replicate], settings.budget.device_hours * 3600, None, "", settings.budget.usd, launch, share=share)
        except LabError as error:
            if error.code == "over_share":
                self._end(candidacy, "out_of_budget", verdict.code, f"{error} {_words(verdict)}")
                return
            if error.code != "over_budget":
                raise
            if not self._ledger.open_experiments(limit=1):  # nothing is left that could return what it doesn't use
                self._end(candidacy, "out_of_budget", verdict.code, f"{error} {_words(verdict)}")

    def _wait_for_champion(self, candidacy: Candidacy, champion: str, verdict: Verdict, settings: Settings) -> None:
        """Note that a candidate needs no replicates but the champion's, unless those come to nothing."""
        launched = self._ledger.champion_replicates(champion, settings.launch())
        if self._left_behind(candidacy.commit, champion):
            self._train(candidacy, champion, verdict, settings)
        elif len(launched) >= MOST * max(settings.promotion.max_replicates, M_MIN):
            self._end(candidacy, "stopped", verdict.code, f"The champion can't be measured: {_words(verdict)}")
        elif not self._ledger.open_experiments(limit=1) and not self._covers_another(settings):
            self._end(candidacy, "out_of_budget", verdict.code, f"[budget] covers no replicate of the champion. {_words(verdict)}")
        else:
            self._note(candidacy, verdict=verdict.code, note=_words(verdict))

    def _left_behind(self, commit: str, champion: str) -> bool:
        """Return whether the champion's last replicates ran under other conditions than the candidate's: packages or this program changed.

        None of them counts beside what the candidate has, so the candidate is trained under those conditions too.
        """
        ours = [score.conditions for score in self._ledger.scores(commit) if score.conditions]
        theirs = [score.conditions for score in self._ledger.scores(champion) if score.by_lab and score.conditions][-LEFT_BEHIND:]
        return len(theirs) == LEFT_BEHIND and len(set(theirs)) == 1 and ours[-1:] != theirs[-1:]

    def _covers_another(self, settings: Settings) -> bool:
        """Return whether the lab's budget covers one more training, where nothing is reserved."""
        each = settings.longest_s()
        if self._ledger.spending()[0] + each > settings.budget.device_hours * 3600:
            return False
        return not settings.rents or self._ledger.money()[0] + each * settings.usd_per_s(settings.reference) <= settings.budget.usd

    def _never_starts(self, candidacy: Candidacy) -> str:
        """Return why the last replicate could not be started at all; empty if it could."""
        trainings = self._ledger.trainings_of(candidacy.id)
        last = self._ledger.ended(trainings[-1:]).get(trainings[-1]) if trainings else None
        if last is None or last["state"] != "crashed" or last["started"]:
            return ""
        return f"Its last replicate could not be started: {last['failure'] or 'see the runner log'}"

    def _note(self, candidacy: Candidacy, **changes: object) -> None:
        """Write down what changed of a candidacy. Where nothing did, nothing is written: each write wakes everybody who waits."""
        if any(getattr(candidacy, name) != value for name, value in changes.items()):
            self._ledger.move_candidacy(candidacy.id, **changes)

    def _cancel_queued(self, training: list[str]) -> None:
        for id in training:
            e = self._ledger.experiment(id)
            if e is not None and e.state == "queued":
                self._ledger.request_cancel(id, LAB)

    def _end(self, candidacy: Candidacy, state: CandidacyState, verdict: str, note: str) -> None:
        _log.info("%s of %s ended: %s %s", candidacy.id, candidacy.commit[:12], state, verdict)
        self._ledger.move_candidacy(candidacy.id, state=state, verdict=verdict, note=note)


def _words(verdict: Verdict) -> str:
    return " ".join(part for part in (verdict.reason, verdict.next) if part)
