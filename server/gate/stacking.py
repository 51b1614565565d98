"""A proposal whose champion moved on: its change, as a proposal on top of the new champion."""

import time

from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Proposal
from autoresearch_mcp.server.proposals.repo import Draft, Repo

_DEEPEST = 16  # proposals on top of each other that are looked at


def stack(proposal: Proposal, champion: str, repo: Repo, ledger: Ledger) -> Proposal | None:
    """Make a proposal's change on top of the champion. Repeating it returns the same proposal.

    Args:
        proposal: made on an earlier champion.
        champion: where it goes.
        repo: of the lab.
        ledger: of the lab.

    Returns:
        The new proposal. None where the two touch the same lines, so that nobody can say what the combination is.

    Raises:
        LabError: `no_change` where the champion has the change already, and the repository's own.
    """
    message = f"{proposal.hypothesis}\n\nStacked onto {champion[:12]}."
    combined = repo.rebase(proposal.commit, champion, message, proposal.author)
    if not isinstance(combined, Draft):
        return None
    return ledger.twin(combined.fingerprint) or adopt(combined, proposal, repo, ledger)


def parts(proposal: Proposal, champion: str, repo: Repo, ledger: Ledger) -> list[str]:
    """Return the changes that a proposal adds to the champion, in a few words each, the oldest first.

    They are the proposals that it is built on and itself; of one that sets several constants, those.
    """
    names: list[str] = []
    for _ in range(_DEEPEST):
        if (origin := ledger.proposal(proposal.ported_from)) is not None and "stacked" in proposal.tags:
            proposal = origin
        names = [*(proposal.sets if len(proposal.sets) > 1 else [proposal.title or proposal.hypothesis[:60]]), *names]
        below = ledger.proposal(proposal.base)
        if below is None or repo.is_ancestor(proposal.base, champion):
            break
        proposal = below
    return names


def adopt(draft: Draft, origin: Proposal, repo: Repo, ledger: Ledger) -> Proposal:
    """Record a draft as a proposal of the same author."""
    repo.keep(draft.commit)
    return ledger.add_proposal(
        Proposal(
            commit=draft.commit,
            base=draft.base,
            fingerprint=draft.fingerprint,
            author=origin.author,
            hypothesis=f"{origin.hypothesis} (stacked onto {draft.base[:12]})",
            title=origin.title,
            sets=origin.sets,
            change=origin.change,
            tags=[*origin.tags, "stacked"],
            ported_from=origin.commit,
            files_changed=draft.files_changed,
            insertions=draft.insertions,
            deletions=draft.deletions,
            created_at=time.time(),
            added=draft.added,
        ),
        draft.canonical,
    )
