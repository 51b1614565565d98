"""Proposals after they were made: their text corrected, or withdrawn, by their author or the lab's owner. The record keeps everything."""

from datetime import UTC, datetime

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab import titles
from autoresearch_mcp.server.lab.cancelling import Cancelling
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.lineage import Lineage
from autoresearch_mcp.server.ledger.remarks import Remark
from autoresearch_mcp.server.models import OWNER, Proposal
from autoresearch_mcp.server.untrusted import clean, one_line

_REASON = 300  # characters
_DID = {"corrected": "corrected its text, which was", "note": "added", "withdrawn": "withdrew it", "restored": "proposed it again"}


class Amending:
    """The use cases that change what is said of a proposal."""

    def __init__(self, core: LabCore, cancelling: Cancelling) -> None:
        self._core = core
        self._cancelling = cancelling

    def withdraw(self, commit: str, author: str, reason: str = "", anyones: bool = False) -> a.CancelAnswer:
        """Take a proposal out of lists and of `similar`, and cancel what is open of it. It stays in the record.

        Args:
            commit: the proposal.
            author: who asks.
            reason: kept with it.
            anyones: whether it may be another's, as for an orchestrator and the lab's owner.

        Raises:
            LabError: `not_a_proposal`, `not_yours`, `in_champion`, and those of `Cancelling.cancel`.
        """
        core, proposal = self._core, self._own(commit, author, anyones)
        sha, reason = proposal.commit, clean(reason).strip()[:_REASON]
        lineage = Lineage(core.ledger, core.repo.champion())
        if lineage.holds(sha):
            raise LabError(f"{sha[:12]} is in the champion, so it can't be withdrawn. Nothing was changed.", "in_champion")
        stopped = self._cancelling.cancel(author, commit=sha, reason=reason, anyones=anyones)
        again = sha in core.ledger.withdrawn()
        if not again:
            core.ledger.withdraw(sha, author, reason, proposal.author)
        note = (
            "It was withdrawn before."
            if again
            else "Withdrawn: it is in no list any more, and stays in the record. Who proposes the same code brings it back."
        )
        return stopped.model_copy(
            update={"commit": sha, "note": f"{note} {stopped.note}" if stopped.states or "Left" in stopped.note else note}
        )

    def amend(self, commit: str, author: str, hypothesis: str, title: str | None = None, anyones: bool = False) -> a.ProposalAnswer:
        """Correct a proposal's text. After its first result the text is kept as a dated note beside the first.

        Args:
            commit: the proposal.
            author: who asks.
            hypothesis: the new text.
            title: the same in a few words; by default its first ones.
            anyones: whether it may be another's, as for an orchestrator and the lab's owner.

        Raises:
            LabError: `not_a_proposal`, `not_yours`, `no_hypothesis`.
        """
        proposal = self._own(commit, author, anyones)
        text = one_line(hypothesis, 2_000).strip()
        if not text:
            raise LabError(
                "The new text is empty. Say in a sentence what the change should do and why. Nothing was changed.", "no_hypothesis"
            )
        short = one_line(title or "", titles.LENGTH).strip() or titles.beginning(text)
        note = "It has results, so its text stays. Yours is kept beside it as a note, with its date."
        if self._core.ledger.amend(proposal.commit, author, text, short):
            note = "Its text was corrected; the record keeps the one of before."
            proposal = proposal.model_copy(update={"hypothesis": text, "title": short})
        return a.ProposalAnswer(
            commit=proposal.commit,
            title=titles.title(proposal),
            base=proposal.base,
            duplicate=False,
            diff_stat="",
            diff="",
            hypothesis=proposal.hypothesis,
            author=proposal.author,
            results=[],
            note=note,
        )

    def _own(self, commit: str, author: str, anyones: bool) -> Proposal:
        core = self._core
        proposal = core.ledger.proposal(core.ledger.proposal_of(core.commit(commit)))
        if proposal is None:
            raise LabError(f"{clean(commit)[:12]} was not made by propose_patch. Nothing was changed.", "not_a_proposal")
        if not anyones and proposal.author != author:
            who = one_line(proposal.author, 64)
            raise LabError(
                f"{proposal.commit[:12]} is {who}'s: only {who}, an orchestrator, or the lab's owner can do this. Nothing was changed.",
                "not_yours",
            )
        return proposal


def in_words(remark: Remark) -> str:
    """Return a remark in a line, such as `2026-11-26: ada withdrew it: it was a typo`."""
    who = "the lab's owner" if remark.author == OWNER else one_line(remark.author, 64)
    text = one_line(remark.text, 300)
    return f"{datetime.fromtimestamp(remark.at, UTC):%Y-%m-%d}: {who} {_DID[remark.kind]}{f': {text}' if text else '.'}"
