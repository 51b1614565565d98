"""Messages as clients send them, made readable for the SDK or refused with a reason. For every transport."""

import json
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS
from pydantic import ValidationError


def whole(message: str) -> str:
    """Return a JSON message without half characters.

    JavaScript writes one, as an escape, where it cut a text inside an emoji. The SDK can't read such a message, so the call would
    never be answered.
    """
    if "\\ud" not in message and "\\uD" not in message:
        return message
    try:
        repaired = json.dumps(json.loads(message), ensure_ascii=False)
    except (ValueError, RecursionError):
        return message
    return repaired.encode("utf-8", "replace").decode("utf-8")


def misshapen(message: Any) -> str:
    """Return why a parsed message can't be a request of this protocol; empty where it can."""
    if isinstance(message, list):
        return "Batches are not served. Send one message a request."
    if isinstance(message, dict) and "method" in message and "id" in message:
        id = message["id"]
        if not isinstance(id, str | int) or isinstance(id, bool):
            return "The id of a request must be a string or an integer. A notification has no id."
    return ""


async def refuse_what_the_sdk_misreads(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Answer a request for a page or a prompt that isn't there with -32602 and the reason, which the SDK would ignore or withhold.

    Raises:
        MCPError: -32602.
    """
    cursor = (ctx.params or {}).get("cursor") if ctx.method.endswith("/list") else None
    if cursor is not None:
        raise MCPError(INVALID_PARAMS, f"Unknown cursor {str(cursor)[:80]!r}. Every list here is one page: leave the cursor out.")
    try:
        return await call_next(ctx)
    except ValueError as error:
        if ctx.method != "prompts/get":
            raise
        raise MCPError(INVALID_PARAMS, _reason(error)) from None


def _reason(error: BaseException) -> str:
    """Return what was wrong with the arguments of a prompt, from the error or from what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ValidationError):
            return "; ".join(f"argument {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in cause.errors(include_url=False)[:4])
        cause = cause.__cause__
    return f"{error}. The prompts are orchestrator and worker." if str(error).startswith("Unknown prompt") else str(error)
