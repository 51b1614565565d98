"""The gate of one lab: collects the evidence on a commit from the ledger, and keeps what was decided.

- Near-copies of a commit are the same candidate, with one decision. Only the replicates of the one that was launched first count: the order
  of launches spreads those over time, and nobody could have known how they turn out.
- Only what was launched since the champion won its crown counts, on both sides, so that they are measured over the same time.
- What a source holds beyond the champion's is charged (see `proposals.growth`): nothing is gained by text or weights in it.
- What is decided stays decided until the champion, the conditions or the lab's rules change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.gate.attempts import bars, owed_seeds, was_started
from autoresearch_mcp.server.gate.evidence import in_order_of_launch
from autoresearch_mcp.server.gate.judge import Evidence, barred, charged, rule_on, weigh
from autoresearch_mcp.server.gate.standings import Standings
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES, Score, Verdict
from autoresearch_mcp.server.proposals import growth
from autoresearch_mcp.server.settings import PromotionSection, Settings

_CHARGED = "For what its source holds beyond the champion's, {:.4f} bits per byte came off its gain."
_DEEPEST = 64  # proposals on top of each other that are looked at


@dataclass(frozen=True)
class _Case:
    """What the ledger says of a candidate against a champion."""

    group: Sequence[str]  # the candidate and its near-copies, the oldest first
    first: str  # of the group, the one whose replicates count
    candidate: Sequence[Score]
    champion: Sequence[Score]
    evidence: Evidence


class Gate:
    """Judges commits by the ledger. Thread-safe.

    Args:
        ledger: of the lab.
        settings: returns the lab's settings of now.
    """

    def __init__(self, ledger: Ledger, settings: Callable[[], Settings]) -> None:
        self._ledger = ledger
        self._current = settings
        self._standings = Standings(ledger, lambda: settings().promotion)

    def verdict(self, commit: str, champion: str, record: bool = True) -> Verdict:
        """Return what the gate says of a commit, and keep it.

        Args:
            commit: the candidate's full id.
            champion: the champion's, or that of another commit to compare with.
            record: False for a look that nobody acts on: nothing is kept.

        Raises:
            LabError: the ledger's.
        """
        settings = self._current()
        if self._ledger.proposal_of(commit) == self._ledger.proposal_of(champion):
            return Verdict(promote=False, code="is_champion", reason="This commit is the champion already. Nothing to promote.")
        case = self._case(commit, champion, settings)
        if ancestor := self._barred(commit, case):
            return barred(ancestor if ancestor != commit else None)
        rules = _rules(settings.promotion)
        conditions = case.evidence.conditions
        if decided := self._ledger.final_decision(champion, conditions, case.group, rules):
            return _as_before(decided[1], None if decided[0] in (commit, self._ledger.proposal_of(commit)) else decided[0])
        running = sum(
            e.commit in case.group and e.device == settings.reference and not e.reproduces
            for e in self._ledger.open_experiments(*ACTIVE_STATES)
        )

        charge = self._charge(commit, champion, settings)
        verdict = rule_on(
            charged(case.evidence, charge),
            case.candidate,
            case.champion,
            settings.promotion,
            settings.reference,
            lambda under: self._standings.spreads(under, [champion]),
            running,
        )
        if charge:
            verdict = verdict.model_copy(update={"reason": f"{verdict.reason} {_CHARGED.format(charge)}"})
        if record and (verdict.final or verdict.p is not None):
            self._ledger.keep_decision(champion, conditions, case.first, case.group[0], rules, verdict)
        return verdict if case.first == self._ledger.proposal_of(commit) else _for_near_copy(verdict, case.first)

    def repeats(self, commit: str, champion: str) -> list[int]:
        """Return the seeds with which a candidate is to be trained again: without those, it can't be promoted, or was mismeasured.

        Raises:
            LabError: the ledger's.
        """
        case = self._case(commit, champion, self._current())
        if case.first != self._ledger.proposal_of(commit):
            return []
        evidence = case.evidence
        return list(dict.fromkeys([*evidence.owed, *evidence.again[0]]))

    def champion_repeats(self, champion: str) -> list[int]:
        """Return the seeds with which the lab is to train the champion again.

        Raises:
            LabError: the ledger's.
        """
        settings = self._current()
        scores = [score for score in self._ledger.scores(champion) if score.by_lab and score.device == settings.reference]
        again = weigh([], scores, settings.promotion, settings.reference).again[1]
        return list(dict.fromkeys([*owed_seeds(in_order_of_launch(scores)), *again]))

    def expected_false_promotions(self) -> float:
        """Return how many promotions of candidates that are no better are to be expected so far, at most.

        Raises:
            LabError: the ledger's.
        """
        return self._ledger.levels_spent()

    def broken_rule(self, commit: str) -> str | None:
        """Return this commit, or the nearest that it is built on, whose model was found to look ahead, keep state or mix rows.

        Raises:
            LabError: the ledger's.
        """
        for _ in range(_DEEPEST):
            if any(score.barred for score in self._ledger.scores(commit)):
                return commit
            proposal = self._ledger.proposal(self._ledger.proposal_of(commit))
            if proposal is None:
                return None
            commit = proposal.base
        return None

    def _case(self, commit: str, champion: str, settings: Settings) -> _Case:
        group = self._group(commit, champion)
        since = next((p.created_at for p in reversed(self._ledger.promotions()) if p.commit == champion and not p.is_demotion), 0.0)
        own = self._ledger.proposal_of(commit)
        attempts = {score.experiment: score for each in group for score in self._ledger.scores(each) if _queued_at(score) >= since}
        started = in_order_of_launch(score for score in attempts.values() if was_started(score))
        first = self._ledger.proposal_of(started[0].commit) if started else own
        candidate = [score for score in attempts.values() if self._ledger.proposal_of(score.commit) == first]
        defending = [score for score in self._ledger.scores(champion) if _queued_at(score) >= since or not score.by_lab]
        return _Case(group, first, candidate, defending, weigh(candidate, defending, settings.promotion, settings.reference))

    def _charge(self, commit: str, champion: str, settings: Settings) -> float:
        """Return what comes off the candidate's gain for what its source holds beyond the champion's."""
        if settings.is_script:
            return 0.0
        ours, theirs = (self._ledger.proposal(self._ledger.proposal_of(each)) for each in (commit, champion))
        return growth.charge(ours.added if ours else 0, theirs.added if theirs else 0, settings.training.limits.base)

    def _group(self, commit: str, champion: str) -> list[str]:
        """Return a commit and its near-copies: the same program, or the same weights. The champion is nobody's near-copy."""
        own = self._ledger.proposal_of(commit)
        canonical = self._ledger.canonical(own)
        group = list(dict.fromkeys([*(self._ledger.near_copies(canonical) if canonical else []), own]))
        group += self._ledger.same_models(group)
        return [each for each in group if each not in (champion, self._ledger.proposal_of(champion))]

    def _barred(self, commit: str, case: _Case) -> str | None:
        """Return the commit that bars this one: itself, a near-copy, or what it is built on."""
        if any(bars(score) for each in case.group for score in self._ledger.scores(each)):
            return commit
        return self.broken_rule(commit)


def _rules(section: PromotionSection) -> str:
    """Return the rules under which a decision holds, as text."""
    guards = "".join(f" {guard.model_copy(update={'goal': guard.better}).model_dump_json()}" for guard in section.metric.guard)
    return f"{section.level_per_candidate:g} {section.max_replicates}{' max' if section.metric.better == 'max' else ''}{guards}"


def _queued_at(score: Score) -> float:
    return score.created_at or score.started_at or score.finished_at


def _as_before(verdict: Verdict, near_copy: str | None) -> Verdict:
    """Return a decision that was kept, to somebody who asks again."""
    whose = f"its near-copy {near_copy[:12]} was decided on" if near_copy else "this was decided"
    reason = f"{verdict.reason} It stays so: {whose}, and that holds until the champion or the conditions change."
    return verdict.model_copy(update={"reason": reason} if not verdict.promote else {})


def _for_near_copy(verdict: Verdict, first: str) -> Verdict:
    """Return the verdict on a near-copy of a commit that was launched before it."""
    short = first[:12]
    return verdict.model_copy(
        update={
            "promote": False,
            "code": "near_copy",
            "final": False,
            "reason": f"It is a near-copy of {short}, which was launched before it, and whose replicates alone count for both. {verdict.reason}",
            "next": f"Promote {short} instead." if verdict.promote else f"Go on with {short}, or with another idea.",
        }
    )
