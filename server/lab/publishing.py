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
        steps = [(each.commit, self._message(each), each.author) for each in promotions]
        return self._core.repo.publish(branch, promotions[0].previous, steps)

    def _message(self, promotion: Promotion) -> str:
        ledger, verdict = self._core.ledger, promotion.verdict
        proposal = ledger.proposal(ledger.proposal_of(promotion.commit))
        head = title(proposal) if proposal else "A commit of the owner's"
        if promotion.is_demotion:
            head = f"Take back: {head}" if proposal else "Back to the first champion"
        runs = [str(row["id"]) for row in ledger.ended_of(promotion.commit) if row["state"] == "finished"][:8]
        lines = [
            head,
            "",
            clean(proposal.hypothesis) if proposal else "",
            "",
            f"Evidence: {verdict.get('reason', '')}",
            f"Approved by {promotion.approved_by}. Commit in the lab: {promotion.commit}",
            *([f"Experiments: {', '.join(runs)}", f"Reproduce with: autoresearch-mcp reproduce {runs[0]}"] if runs else []),
        ]
        return "\n".join(lines)
