"""The promotions as a branch for people: one commit each, with its evidence in the message."""

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.titles import title
from autoresearch_mcp.server.models import Promotion
from autoresearch_mcp.server.untrusted import clean


class Publishing:
    """The use case that hands a campaign's result on."""

    def __init__(self, core: LabCore) -> None:
        self._core = core

    def publish(self, branch: str) -> list[str]:
        """Make a branch of the promotions, on the champion of before the first. See `Repo.publish`.

        Raises:
            LabError: `no_promotion`, `bad_branch`, and git's own.
        """
        promotions = self._core.ledger.promotions()
        if not promotions:
            raise LabError("Nothing was promoted yet, so there is nothing to make a branch of.", "no_promotion")
        steps = [(each.commit, *self._told(each)) for each in promotions]
        return self._core.repo.publish(branch, promotions[0].previous, steps)

    def _told(self, promotion: Promotion) -> tuple[str, str]:
        """Return the message for a move of the champion, and the commit's author: whose change it is."""
        ledger, reason = self._core.ledger, promotion.verdict.get("reason", "")
        about = promotion.previous if promotion.is_demotion else promotion.commit
        proposal = ledger.proposal(ledger.proposal_of(about))
        head = title(proposal) if proposal else "A commit of the owner's"
        asked = f"Asked for by {promotion.author}, approved by {promotion.approved_by}. Commit in the lab: {promotion.commit}"
        if promotion.is_demotion:
            return "\n".join([f"Take back: {head}", "", *([f"The reason: {reason}"] if reason else []), asked]), promotion.author
        runs = [
            str(row["id"]) for row in ledger.ended_of(about) if row["state"] == "finished" and row["finished_at"] <= promotion.created_at
        ][:8]
        lines = [
            head,
            "",
            *([clean(proposal.hypothesis), ""] if proposal else []),
            f"The evidence: {reason}",
            asked,
            *([f"Its experiments: {', '.join(runs)}", f"Reproduce with: autoresearch-mcp reproduce {runs[0]}"] if runs else []),
        ]
        return "\n".join(lines), proposal.author if proposal else promotion.author
