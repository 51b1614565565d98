"""What to do next, from the lab's state: what is most useful for the caller comes first."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from autoresearch_mcp.server.gate.evidence import BY_SETTING
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.forecast import Forecast
from autoresearch_mcp.server.lab.memories import Memories
from autoresearch_mcp.server.lab.status import LabStatus, Snapshot
from autoresearch_mcp.server.lab.titles import shorten
from autoresearch_mcp.server.ledger.standings import Standing
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment

MOST = 6  # steps that are told
FEW_LEFT = 10  # trainings, from which on the budget is nearly gone
_RECENT = 24  # trainings of the caller that are looked at
_IDEAS = 2  # untried ones that are named
_TITLE = 50  # characters of an idea
_NAMED = 3  # candidates that wait for a person


@dataclass(frozen=True)
class _Shared:
    """What the steps of all callers are made of besides a snapshot, until the ledger or the champion changes."""

    key: tuple[int, str, str]
    passing: Sequence[str]
    apart: Collection[str]  # never to be decided or promoted now
    at_work: Collection[str]  # something of it is queued, runs, or goes on until it is decided


class NextSteps:
    """Advice for one caller. Thread-safe; it reads the ledger, and the log only where there is nothing better to do than an old idea."""

    def __init__(self, core: LabCore, status: LabStatus, memories: Memories) -> None:
        self._core = core
        self._status = status
        self._memories = memories
        self._ideas: tuple[int, str] = (-1, "")  # the ledger's version, and the untried ones then
        self._shared: _Shared | None = None

    def steps(self, caller: str) -> list[str]:
        """Return what to do next, the most useful first.

        Args:
            caller: whose candidates and trainings come first; empty for nobody's.

        Raises:
            LabError: the ledger's.
        """
        with self._core.snapshot():
            now = self._status.snapshot()
            ahead = self._status.forecast(now.open)
            return list(islice(self._steps(caller, now, ahead), MOST))

    def _steps(self, caller: str, now: Snapshot, ahead: Forecast) -> Iterator[str]:
        settings = self._core.settings
        budget = self._status.budget_of(now)
        each = settings.longest_s()
        affordable = budget.left_s >= each
        if budget.usd is not None:
            affordable &= budget.usd.left >= each * min(map(settings.usd_per_s, settings.devices))
        yield from self._candidates(caller, now, affordable)
        yield from self._held(caller, now) if caller else ()
        if not affordable:
            yield "The budget is used up: wait for what runs, write down what was learned, and stop."
        elif now.champion_needs > 0 and (now.uncounted.twins > 0 or any(now.uncounted.excluded[reason] for reason in BY_SETTING)):
            why = "".join(f" {sentence}" for sentence in now.uncounted.sentences("champion"))
            yield f"The champion can't be compared yet: it needs {now.champion_needs} more replicates that count.{why}"
        elif (left := int(budget.left_s // (now.typical_s or each))) < FEW_LEFT:
            yield f"The budget pays for {left} more trainings: spend them on the open candidate with the largest gain, not on new ideas."
        mine = [e for e in now.open if e.author == caller and not e.by_lab]
        if mine:
            yield _waiting("Yours", mine, ahead)
        elif now.open:
            yield f"{_waiting('Others', now.open, ahead)} Think of the next idea meanwhile."
        if affordable:
            yield from self._new_work(caller, now, settings.slots)

    def _new_work(self, caller: str, now: Snapshot, slots: int) -> Iterator[str]:
        idle = slots - len(now.open)
        free = f"{idle} of {slots} slots idle: " if idle > 0 and now.open else ""
        if now.champion.n == 0 and not now.open:
            yield "Nothing is measured yet. Launch a first idea with until='decided': the lab trains the champion beside it."
        ideas = self._core.ledger.free_ideas(caller, now.lineage.held)
        count = "1 idea is" if ideas == 1 else f"{ideas} ideas are"
        there = f" {count} untried and free: claim_idea one of search_memory(kind='idea', free=true)." if ideas else ""
        yield f"{free}Search memory, read train.py, then propose_patch with one idea and launch it.{there}"
        if not now.open and (named := self._untried()):
            yield named

    def _candidates(self, caller: str, now: Snapshot, affordable: bool) -> Iterator[str]:
        """Yield what the gate's verdicts ask for: of the caller's commits first."""
        shared = self._of_all(now)
        mine = list(dict.fromkeys(commit for _, commit in self._core.ledger.recent_of(caller, _RECENT))) if caller else []
        passing = sorted(shared.passing, key=lambda each: each not in mine)
        needs_yes = self._core.settings.promotion.approval == "human"
        for commit in passing if not needs_yes else ():
            yield f"{'Your' if commit in mine else 'Candidate'} {commit[:12]} passes the gate: promote_commit(commit='{commit[:12]}')."
        futile, verdicts = "", self._core.ledger.decisions(now.champion.commit, now.conditions, mine)
        standings = self._status.standings(now.conditions, mine) if mine else {}
        for commit in mine:
            if commit in shared.apart or commit in shared.at_work or commit in shared.passing or now.lineage.holds(commit):
                continue
            verdict = verdicts.get(commit)
            if verdict is not None and (verdict.final or verdict.code == "futile"):
                futile = futile or f"Your {commit[:12]} is decided ({verdict.code}): write down why with write_memory, and go on."
            elif affordable and (standing := standings.get(commit)) and (step := self._open(standing, now)):
                yield step
        if needs_yes and passing:
            named = ", ".join(commit[:12] for commit in passing[:_NAMED])
            yield f"A person's yes is wanted for {named}: promote_commit asks for it, once each. Don't wait for it: go on with other work."
        if futile:
            yield futile

    def _held(self, caller: str, now: Snapshot) -> Iterator[str]:
        """Yield how the work on each idea stands that the caller holds: who takes over under its name begins there."""
        held = [claim for claim in self._core.ledger.claims() if claim.holder == caller]
        tried = self._core.ledger.commits_of_ideas() if held else {}
        at_work = self._of_all(now).at_work
        for claim in held:
            commits = tried.get(claim.idea, [])
            if working := [commit[:12] for commit in commits if commit in at_work]:
                what = f"{working[-1]} of it is being trained"
            elif not commits:
                what = f"nothing of it is proposed yet: propose_patch(idea='{claim.idea}')"
            elif any(map(self._core.ledger.ended_of, commits)):
                what = f"{commits[-1][:12]} of it has results: write them down, and release it, or go on"
            else:
                what = f"{commits[-1][:12]} of it was never trained: launch_training(commit='{commits[-1][:12]}')"
            until = datetime.fromtimestamp(claim.until, UTC).strftime("%H:%M UTC")
            yield f"You hold {claim.idea} {shorten(claim.text, _TITLE)!r} until {until}; {what}."

    def _of_all(self, now: Snapshot) -> _Shared:
        ledger, conditions, champion = self._core.ledger, now.conditions, now.champion.commit
        key = (ledger.changes(), champion, conditions)
        if self._shared is None or self._shared.key != key:
            apart = ledger.measurements() | ledger.withdrawn() | now.lineage.taken_back
            passing = [commit for commit in ledger.passing(champion, conditions) if commit not in apart]
            self._shared = _Shared(
                key=key,
                passing=[commit for commit in passing if not now.lineage.holds(commit)],
                apart=apart,
                at_work={e.commit for e in now.open} | {each.commit for each in ledger.open_candidacies()},
            )
        return self._shared

    def _open(self, standing: Standing, now: Snapshot) -> str:
        """Return what an undecided commit of the caller's needs; empty where it shows no gain."""
        commit, level = standing.commit, now.champion
        if stale := now.lineage.is_stale(commit):
            if (proposal := self._core.ledger.proposal(commit)) is None:
                return ""
            level = self._status.summary(proposal.base, now.conditions)
        if level.mean is None or (gain := self._status.gain(standing.mean, level.mean)) <= 0:
            return ""
        what = f"Your {commit[:12]} ({gain:+.4f}{' on its base' if stale else ''}, n={standing.n}) is open"
        if stale:
            return f"{what}, and the champion moved: promote_commit(commit='{commit[:12]}') rebases it."
        return f"{what}: launch_training(commit='{commit[:12]}', until='decided')."

    def _untried(self) -> str:
        """Return the most promising ideas that nobody tried or holds; empty where there are none."""
        version = self._core.ledger.changes()
        if self._ideas[0] != version:
            ideas = self._memories.search_memory(kind="idea", limit=_IDEAS, free_for="").memories
            named = "; ".join(f"{idea.id} {shorten(idea.text, _TITLE)!r}" for idea in ideas)
            self._ideas = version, f"Free ideas in memory: {named}." if named else ""
        return self._ideas[1]


def _waiting(whose: str, open_: Sequence[Experiment], ahead: Forecast) -> str:
    running = sum(e.state in ACTIVE_STATES for e in open_)
    last = ahead.last_s([e.id for e in open_])
    done = f", done in about {last:.0f} s" if last is not None else ""
    return f"{whose}: {running} running, {len(open_) - running} queued{done}. wait_for_experiments tells when they end."
