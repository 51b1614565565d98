"""`promote_commit`: asks the gate and, where `lab.toml` wants a person's approval, asks that person through the client.

Only a client that the lab's owner named in `[promotion] approval_clients` is asked, because any other may be a program that says
yes to everything. The question travels by elicitation in both protocol eras, and only the answer `true` counts. Where nobody can be
asked, the promotion waits for `autoresearch-mcp approve`. What it gives up: a client's name is its own word, so a program with the
name of a listed client passes for it.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, Resolve
from pydantic import BaseModel, BeforeValidator, Field

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.mcp.arguments import Author, Commit
from autoresearch_mcp.server.mcp.bridge import Bridge, Ctx
from autoresearch_mcp.server.mcp.brief import brief_promotion


def _is_true(value: Any) -> bool:
    return value is True


class Approval(BaseModel):
    """The question to the person. Anything but `true` is a no."""

    approve: Annotated[bool, BeforeValidator(_is_true)] = Field(default=False, description="Yes: make this commit the champion")


def promotion(bridge: Bridge) -> Callable[..., Awaitable[a.PromoteAnswer]]:
    """Return the tool, bound to a lab."""

    async def ask_gate(commit: str, author: str | None, confirm: bool | None, context: Ctx) -> a.PromoteAnswer:
        return await bridge.work(bridge.lab.promote_commit, commit, bridge.author(author, context), None, bool(confirm))

    async def ask_person(gate: Annotated[a.PromoteAnswer, Resolve(ask_gate)], commit: str, context: Ctx) -> Approval | Elicit[Approval]:
        if gate.verdict.code != "awaiting_approval" or _cannot_ask(bridge, context):
            return Approval(approve=False)
        return Elicit(f"Promote commit {commit[:12]} to champion? {gate.verdict.reason}", Approval)

    # The SDK names a question after its function, and clients see the name.
    ask_person.__module__, ask_person.__qualname__ = "promote_commit", "approval"

    async def promote_commit(
        commit: Commit,
        context: Ctx,
        gate: Annotated[a.PromoteAnswer, Resolve(ask_gate)],
        person: Annotated[ElicitationResult[Approval], Resolve(ask_person)],
        author: Author | None = None,
        confirm: bool | None = None,
    ) -> a.PromoteAnswer:
        """Make a commit the champion if the gate agrees. Asking costs nothing, and says what is next.

        If the champion moved, go on with `retrain`, the change rebased onto it.
        """
        if gate.verdict.code != "awaiting_approval":
            return brief_promotion(gate)
        if isinstance(person, AcceptedElicitation) and person.data.approve:
            approved_by = f"a person at the client {bridge.client(context.request_context)}"
            name = bridge.author(author, context)
            return brief_promotion(await bridge.work(bridge.lab.promote_commit, commit, name, approved_by, bool(confirm)))
        why = _cannot_ask(bridge, context) or "The person did not approve it."
        note = f"{why} The champion stays. A person can approve with `autoresearch-mcp approve {commit}`; meanwhile go on with other work."
        return gate.model_copy(update={"note": note})

    return promote_commit


def _cannot_ask(bridge: Bridge, context: Ctx) -> str:
    """Return why no person can be asked through this client; empty where one can."""
    if context.session.client_params is None:
        return "No person was asked: over HTTP, a client of an MCP version before 2026-07-28 can't be asked, and names itself to no call."
    name = bridge.client(context.request_context)
    if name not in bridge.lab.settings.promotion.approval_clients:
        return (
            f"No person was asked: the lab counts no answer of the client {name!r}. "
            "The owner can name it in lab.toml under [promotion] approval_clients if a person sits at it."
        )
    elicitation = context.client_capabilities.elicitation if context.client_capabilities else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return f"No person was asked: the client {name!r} has no elicitation, so it can't put the question."
    return ""
