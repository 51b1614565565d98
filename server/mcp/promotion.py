"""`promote_commit`: asks the gate, and where `lab.toml` wants a human's approval asks the human through the client.

The question travels by elicitation in both protocol eras. Only an explicit yes counts; a client that can't ask leaves
the promotion waiting, and a human approves it on the command line.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, Resolve
from pydantic import BaseModel, Field

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.mcp.arguments import Author, Commit
from autoresearch_mcp.server.mcp.bridge import Ctx, Desk


class Approval(BaseModel):
    """What the human is asked."""

    approve: bool = Field(description="Yes: make this commit the champion")


def promotion(desk: Desk) -> Callable[..., Awaitable[a.PromoteAnswer]]:
    """The tool, bound to a lab."""

    async def ask_gate(commit: str, author: str | None, context: Ctx) -> a.PromoteAnswer:
        return await desk.call(desk.lab.promote_commit, commit, desk.author(author, context))

    async def ask_human(gate: Annotated[a.PromoteAnswer, Resolve(ask_gate)], commit: str, context: Ctx) -> Approval | Elicit[Approval]:
        if gate.verdict.code != "awaiting_approval" or not _can_ask(context):
            return Approval(approve=False)
        return Elicit(f"Promote commit {commit[:12]} to champion? {gate.verdict.reason}", Approval)

    async def promote_commit(
        commit: Commit,
        context: Ctx,
        gate: Annotated[a.PromoteAnswer, Resolve(ask_gate)],
        human: Annotated[ElicitationResult[Approval], Resolve(ask_human)],
        author: Author | None = None,
    ) -> a.PromoteAnswer:
        """Make a commit the champion if the gate agrees: enough finished replicates of it and of the champion on one kind of
        device (3 unless lab.toml says otherwise), better beyond noise, verified metrics only. Returns the verdict with its numbers and
        what to do. If the champion moved meanwhile, `retrain` names the change rebased onto it: launch that, then promote it."""
        if gate.verdict.code != "awaiting_approval":
            return gate
        if isinstance(human, AcceptedElicitation) and human.data.approve:
            return await desk.call(desk.lab.promote_commit, commit, desk.author(author, context), f"{desk.client(context)} user")
        said = "The human did not approve it." if _can_ask(context) else "This client can't ask a human."
        note = f"{said} The champion stays. A human can approve with `autoresearch-mcp approve {commit}`; meanwhile go on with other work."
        return gate.model_copy(update={"note": note})

    return promote_commit


def _can_ask(context: Ctx) -> bool:
    elicitation = context.client_capabilities.elicitation if context.client_capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)
