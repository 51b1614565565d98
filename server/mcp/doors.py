"""What each caller may do: tools and prompts beyond a role are neither listed nor answered, and acknowledged changes are written down."""

from collections.abc import Mapping, Sequence
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, CallToolResult, TextContent

from autoresearch_mcp.server import tracing
from autoresearch_mcp.server.mcp.bridge import Bridge
from autoresearch_mcp.server.roles import Identity, Role
from autoresearch_mcp.server.untrusted import one_line

PROMPTS = {"orchestrator": Role.ORCHESTRATOR, "worker": Role.WORKER}
_UNCHANGED = {"duplicate": True, "repeated": True, "promoted": False}  # fields of answers after which nothing is other than before
_SUBJECTS = (
    "experiments",
    "states",
    "experiment",
    "commit",
    "id",
    "champion",
)  # fields of answers that name what changed, the most telling first


class Doors:
    """A middleware of the SDK's server.

    Args:
        bridge: knows who calls.
        tools: all that there are. Those that only read are anybody's.
        orchestrators: names of those that take an orchestrator.
    """

    def __init__(self, bridge: Bridge, tools: Sequence[Tool], orchestrators: Sequence[str]) -> None:
        self._bridge = bridge
        self._writes = {tool.name for tool in tools if tool.annotations is None or not tool.annotations.read_only_hint}
        self._tools = {tool.name: Role.WORKER if tool.name in self._writes else Role.VIEWER for tool in tools}
        self._tools |= dict.fromkeys(orchestrators, Role.ORCHESTRATOR)

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Refuse, or pass on; leave out of a list what would be refused.

        Raises:
            MCPError: -32602, for a prompt beyond the caller's role.
        """
        identity, name = self._bridge.identity(ctx.request), str((ctx.params or {}).get("name"))
        match ctx.method:
            case "tools/call" if refusal := _refusal(identity, name, self._tools):
                return CallToolResult(content=[TextContent(type="text", text=refusal)], is_error=True)
            case "prompts/get" if refusal := _refusal(identity, name, PROMPTS):
                raise MCPError(INVALID_PARAMS, refusal)
        result = await call_next(ctx)
        if not isinstance(result, dict):
            return result
        match ctx.method:
            case "tools/list":
                return {**result, "tools": [tool for tool in result["tools"] if not _refusal(identity, tool["name"], self._tools)]}
            case "prompts/list":
                return {**result, "prompts": [prompt for prompt in result["prompts"] if not _refusal(identity, prompt["name"], PROMPTS)]}
            case "tools/call" if name in self._writes and not result.get("isError") and "structuredContent" in result:
                await self._write_down(ctx, identity, name, result["structuredContent"])
        return result

    async def _write_down(self, ctx: ServerRequestContext[Any, Any], identity: Identity, tool: str, answer: dict[str, Any]) -> None:
        if any(answer.get(field) == value for field, value in _UNCHANGED.items()) and not answer.get("launched"):
            return
        given = ((ctx.params or {}).get("arguments") or {}).get("author")
        who = self._bridge.signature(given if isinstance(given, str) else None, ctx)
        origin = self._bridge.client(ctx) + (f" at {ctx.request.client.host}" if ctx.request is not None and ctx.request.client else "")
        subject = next((answer[field] for field in _SUBJECTS if answer.get(field)), "")
        subject = ", ".join(subject) if isinstance(subject, list | dict) else str(subject)
        way = "stdio" if ctx.request is None else "http"
        fields = (one_line(who, 64), str(identity.role or ""), way, one_line(origin, 200), tool, one_line(subject, 400))
        await self._bridge.glance(self._bridge.lab.record_change, *fields)
        if (launched := _launched(answer)) and (context := tracing.current()):
            await self._bridge.call(self._bridge.lab.keep_trace, launched, context)


def _launched(answer: dict[str, Any]) -> list[str]:
    """Return the ids of what a call launched: experiments, and a launch until decided."""
    experiments, until_decided = answer.get("experiments"), answer.get("until_decided")
    return [*(experiments if isinstance(experiments, list) else []), *([until_decided] if isinstance(until_decided, str) else [])]


def _refusal(identity: Identity, name: str, needed: Mapping[str, Role]) -> str:
    """Return why a caller may not use a tool or prompt; empty where it may, or where there is no such thing."""
    if identity.role is None or name not in needed or identity.role.covers(needed[name]):
        return ""
    return (
        f"{name} takes the role {needed[name]}, and {identity.name or 'this caller'} is {'an' if identity.role[0] in 'aeiou' else 'a'} "
        f"{identity.role} here. Ask for it, or have an agent with that role do it. Nothing was changed."
    )
