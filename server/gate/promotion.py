"""Moves the champion: asks the gate, stacks a change onto a champion that moved meanwhile, and moves the git ref.

The move is written down before the ref changes and confirmed afterwards, under a file lock. So a crash at any instant leaves either
the old champion and no promotion, or the new champion and its promotion.
"""

import time
from pathlib import Path
from typing import Literal

from autoresearch_mcp.server.answers import PromoteAnswer
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.gate import Gate
from autoresearch_mcp.server.gate.stacking import parts, stack
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Metric, Promotion, Proposal, Verdict, new_id
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.trainer import files

MEASUREMENT = "{0} was proposed as a measurement, which is never promoted. propose_patch(port={0!r}, ...) makes a candidate of it."

_MOST_LEFT = 8  # changes that are named

WITHDRAWN = "{0} was withdrawn. Propose the same code again to bring it back."
_SEVERAL = "It holds {} changes: {}. Train it once without each of them: what is worth nothing can go."


class Promoter:
    """The gate and the champion's ref, for one lab."""

    def __init__(self, gate: Gate, approval: Literal["none", "human"], state: Path, ledger: Ledger, repo: Repo) -> None:
        self._gate = gate
        self._approval = approval
        self._lock = StatePaths(state).promotion_lock
        self._ledger = ledger
        self._repo = repo

    def promote(self, commit: str, author: str, approved_by: str | None, confirm: bool = False) -> PromoteAnswer:
        """Promote a commit if the gate lets it through.

        Args:
            commit: the full id of a proposal.
            author: who asks.
            approved_by: who said yes, where the lab wants a person's approval; None: nobody yet.
            confirm: whether a commit on an old base may replace the champion as it is, with what was promoted since left behind.

        Raises:
            LabError: `not_a_proposal`, `measurement`, `withdrawn`, and the repository's own.
        """
        with files.locked(self._lock):
            self._recover()
            champion = self._repo.champion()
            if commit == champion:
                return self._refusal(champion, Verdict(promote=False, code="is_champion", reason="This commit is the champion already."))
            proposal = self._ledger.proposal(commit)
            if approved_by is None and (refusal := self._is_owners(commit, champion)):
                return self._refusal(champion, refusal)
            if proposal is None:
                raise LabError(
                    f"{commit[:12]} was not made by propose_patch, so it can't be promoted. Propose the change first.", "not_a_proposal"
                )
            if commit in self._ledger.measurements():
                raise LabError(MEASUREMENT.format(commit[:12]), "measurement")
            left_behind = ""
            if commit in self._ledger.withdrawn():
                raise LabError(WITHDRAWN.format(commit[:12]), "withdrawn")
            if not self._repo.is_ancestor(champion, commit):
                stacked = self._stack(proposal, champion, confirm)
                if isinstance(stacked, PromoteAnswer):
                    return stacked
                commit, left_behind = stacked, self._left_behind(proposal.commit, champion)
            verdict = self._gate.verdict(proposal.commit, champion)
            if not verdict.promote:
                return self._refusal(champion, verdict)
            if self._approval == "human" and approved_by is None:
                reason = f"{verdict.reason} This lab wants a person's approval before the champion moves."
                return self._refusal(champion, verdict.model_copy(update={"promote": False, "code": "awaiting_approval", "reason": reason}))
            answer = self._move(commit, champion, author, approved_by or "policy", verdict)
            changes = parts(proposal, champion, self._repo, self._ledger)
            several = _SEVERAL.format(len(changes), "; ".join(changes[:8])) if len(changes) > 1 else ""
            left = f"It is on an earlier champion, so the new one is without: {left_behind}." if left_behind else ""
            return answer.model_copy(update={"note": " ".join(filter(None, [answer.note, left, several]))})

    def demote(self, by: str, reason: str) -> Promotion:
        """Take the last promotion back: the champion of before is the champion again. All records stay.

        Args:
            by: the owner, who may do this.
            reason: kept with the record.

        Returns:
            The record: its `commit` is the champion now, its `previous` the one that was demoted.

        Raises:
            LabError: `no_promotion`, where this champion was not promoted, and the repository's own.
        """
        with files.locked(self._lock):
            self._recover()
            champion = self._repo.champion()
            last = next((p for p in reversed(self._ledger.promotions()) if p.commit == champion and not p.is_demotion), None)
            if last is None:
                raise LabError(f"The champion {champion[:12]} is the lab's first: there is no promotion to take back.", "no_promotion")
            verdict = {"code": "demoted", "reason": reason, "undoes": last.id, "metric": last.verdict.get("metric", "verified")}
            verdict |= {"candidate_mean": last.verdict.get("champion_mean"), "champion_mean": last.verdict.get("candidate_mean")}
            demotion = Promotion(
                id=new_id("p"),
                commit=last.previous,
                previous=champion,
                author=by,
                approved_by=by,
                verdict=verdict,
                created_at=time.time(),
            )
            self._advance(demotion)
            return demotion

    def adopt(self, commit: str, by: str, reason: str, metric: Metric) -> tuple[Promotion, list[str]]:
        """Make a commit of the owner's the champion, without the gate. What it holds then counts as the lab's first source.

        Args:
            commit: its full id.
            by: the owner, who may do this.
            reason: kept with the record.
            metric: how far the lab's metric can be trusted.

        Returns:
            The record, and warnings for the owner.

        Raises:
            LabError: `is_champion`; `not_ahead` where it lacks what was promoted; and the repository's own.
        """
        with files.locked(self._lock):
            self._recover()
            champion = self._repo.champion()
            if commit == champion:
                raise LabError(f"{commit[:12]} is the champion already. Nothing was changed.", "is_champion")
            if not self._repo.is_ancestor(champion, commit):
                raise LabError(
                    f"{commit[:12]} doesn't hold the champion {champion[:12]}, so adopting it would drop what was promoted. Merge it there first "
                    "(`git merge research`), or take promotions back with `autoresearch-mcp demote`. Nothing was changed.",
                    "not_ahead",
                )
            verdict = {"code": "adopted", "reason": reason, "metric": metric}
            adoption = Promotion(
                id=new_id("p"), commit=commit, previous=champion, author=by, approved_by=by, verdict=verdict, created_at=time.time()
            )
            warnings = self._advance(adoption)
            self._repo.name_first(commit)
            return adoption, warnings

    def _is_owners(self, commit: str, champion: str) -> Verdict | None:
        """Return why only the lab's owner can make this commit the champion: it was one before. None where the gate decides."""
        demoted = {p.previous for p in self._ledger.promotions() if p.is_demotion and not self._repo.is_ancestor(p.previous, champion)}
        if commit in demoted | {self._ledger.proposal_of(each) for each in demoted}:
            reason = (
                f"The lab's owner took the promotion of {commit[:12]} back. Only they can promote it again (`autoresearch-mcp approve`)."
            )
            return Verdict(promote=False, code="is_champion", reason=reason, final=True)
        if self._repo.is_ancestor(commit, champion):
            reason = (
                f"{commit[:12]} is in the champion {champion[:12]} already. Only the lab's owner can go back to it: ask for "
                "`autoresearch-mcp demote`, which takes the last promotion back."
            )
            return Verdict(promote=False, code="already_in", reason=reason, final=True)
        return None

    def recover(self) -> None:
        """Settle a promotion that a crash interrupted. Cheap when there is none."""
        if self._ledger.promotions(done=False):
            with files.locked(self._lock):
                self._recover()

    def _stack(self, proposal: Proposal, champion: str, confirm: bool) -> PromoteAnswer | str:
        """Settle what becomes of a proposal when the champion has moved since.

        Returns:
            An answer that asks for the combination to be trained. Where that was done already or is impossible, or the caller confirmed that the
            proposal may replace the champion: its code as a commit on top of the champion, which it has to beat by itself.
        """
        base = self._repo.merge_base(proposal.commit, champion)
        own = self._gate.verdict(proposal.commit, base, record=False)
        replaces = self._gate.verdict(proposal.commit, champion, record=False).promote
        if own.code not in ("promote", "continue", "champion") and not replaces:
            reason = f"The champion moved since this proposal was made, and against its own base {base[:12]}: {own.reason}"
            return self._refusal(champion, own.model_copy(update={"reason": reason}), of=proposal.commit, against=base)
        try:
            stacked = stack(proposal, champion, self._repo, self._ledger)
        except LabError as error:
            if error.code != "no_change":
                raise
            reason = f"The champion {champion[:12]} has this change already."  # such as when the same promotion is asked for again
            code = "is_champion" if self._ledger.proposal_of(champion) == proposal.commit else "already_in"
            return self._refusal(champion, own.model_copy(update={"promote": False, "code": code, "reason": reason, "next": ""}))
        if stacked is not None and not (replaces and confirm):
            tested = self._gate.verdict(stacked.commit, champion)
            if tested.code in ("promote", "continue", "champion"):
                what = "promote that commit" if tested.promote else "launch_training(until='decided') on that commit, then promote it"
                reason = (
                    f"The champion moved to {champion[:12]} since this proposal was made. The change was rebased onto it as {stacked.commit[:12]}: "
                    f"{what}. Gains don't always add up, so the combination has to be tested. {tested.reason}"
                )
                if replaces:
                    left_behind = self._left_behind(proposal.commit, champion) or "what was promoted since"
                    reason += (
                        f" As it is, {proposal.commit[:12]} beats this champion too, but would leave behind: {left_behind}. "
                        f"promote_commit(commit={proposal.commit[:12]!r}, confirm=true) does that."
                    )
                following = f"promote_commit(commit={stacked.commit[:12]!r})." if tested.promote else tested.next
                verdict = tested.model_copy(update={"promote": False, "code": "stale_base", "reason": reason, "next": following})
                return self._refusal(champion, verdict, retrain=stacked.commit, of=stacked.commit, against=champion)
        commit = self._repo.transplant(proposal.commit, champion, proposal.hypothesis, proposal.author)
        self._ledger.add_alias(commit, proposal.commit)
        return commit

    def _left_behind(self, commit: str, champion: str) -> str:
        """Return the titles of the changes that the champion has from promotions and a commit has not, the oldest first."""
        titles = []
        for promotion in self._ledger.promotions():
            if promotion.is_demotion or self._repo.is_ancestor(promotion.commit, commit):
                continue
            proposal = self._ledger.proposal(self._ledger.proposal_of(promotion.commit))
            if proposal is not None and self._repo.is_ancestor(promotion.commit, champion):
                titles.append(proposal.title or proposal.hypothesis[:60])
        return "; ".join(titles[-_MOST_LEFT:])

    def _move(self, commit: str, champion: str, author: str, approved_by: str, verdict: Verdict) -> PromoteAnswer:
        promotion = Promotion(
            id=new_id("p"),
            commit=commit,
            previous=champion,
            author=author,
            approved_by=approved_by,
            verdict=verdict.model_dump(),
            created_at=time.time(),
        )
        warnings = self._advance(promotion)
        note = f"The champion is now {commit[:12]}. Base new proposals on it; open proposals on the old one will be asked to retrain."
        return PromoteAnswer(
            promoted=True,
            champion=commit,
            previous=champion,
            verdict=verdict,
            note=" ".join([note, *warnings]),
        )

    def _advance(self, promotion: Promotion) -> list[str]:
        """Write a move of the champion down, make it, and confirm it. Returns the warnings of `Repo.advance`."""
        self._ledger.intend_promotion(promotion)
        try:
            warnings = self._repo.advance(promotion.previous, promotion.commit)
        except LabError:
            self._ledger.drop_promotion(promotion)
            raise
        self._ledger.confirm_promotion(promotion)
        return warnings

    def _recover(self) -> None:
        for promotion in self._ledger.promotions(done=False):
            if self._repo.champion() == promotion.commit:
                self._repo.follow(promotion.previous, promotion.commit)
                self._ledger.confirm_promotion(promotion)
            else:
                self._ledger.drop_promotion(promotion)

    @staticmethod
    def _refusal(champion: str, verdict: Verdict, retrain: str | None = None, of: str = "", against: str = "") -> PromoteAnswer:
        """Return the answer to a commit that stays what it is; `of` and `against` name whose numbers the verdict holds, where they differ."""
        note = " ".join(filter(None, ["Not promoted.", verdict.reason, verdict.next]))
        return PromoteAnswer(
            promoted=False, champion=champion, verdict=verdict, retrain=retrain, verdict_of=of, verdict_against=against, note=note
        )
