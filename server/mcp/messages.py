"""Messages as clients send them, made readable for the SDK or refused with a reason. For every transport."""

import json
from dataclasses import dataclass
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from pydantic import ValidationError
from pydantic_core import from_json


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


@dataclass(frozen=True)
class Refusal:
    """An answer to what can be no message of this protocol, which the SDK would drop or answer with its own internals.

    Attributes:
        code: of JSON-RPC.
        why: a sentence for the client.
        id: of the request, where it has one that can be answered.
    """

    code: int
    why: str
    id: str | int | None = None

    def answer(self) -> dict[str, Any]:
        """Return it as a message of JSON-RPC."""
        return {"jsonrpc": "2.0", "id": self.id, "error": {"code": self.code, "message": self.why}}


def refused(message: str | bytes) -> Refusal | None:
    """Return why a text can be no message of this protocol; None where it can be one.

    Args:
        message: the text, after `whole`.
    """
    try:
        parsed = from_json(message)
    except ValueError as error:
        return Refusal(PARSE_ERROR, f"The message is not JSON: {error}.")
    if isinstance(parsed, list):
        return Refusal(INVALID_REQUEST, "Batches are not served. Send one message a request.")
    if not isinstance(parsed, dict):
        return Refusal(INVALID_REQUEST, "A message must be a JSON object.")
    id = parsed.get("id")
    known = id if _is_id(id) else None
    why = _misshapen(parsed)
    return Refusal(INVALID_REQUEST, why, known) if why else None


def _misshapen(message: dict[str, Any]) -> str:
    if message.get("jsonrpc") != "2.0":
        return 'A message must have "jsonrpc": "2.0".'
    if "method" in message:
        if "id" in message and not _is_id(message["id"]):
            return "The id of a request must be a string or an integer. A notification has no id."
        if not isinstance(message["method"], str):
            return "The method must be a string."
        params = message.get("params")
        return "" if params is None or isinstance(params, dict) else "The params must be an object, with arguments by name."
    if isinstance(message.get("result"), dict):
        return "" if _is_id(message.get("id")) else "The id of a response must be that of a request."
    error = message.get("error")
    if not isinstance(error, dict):
        return "A request needs a method; a response needs a result or an error, which is an object."
    id, code = message.get("id"), error.get("code")
    fits = isinstance(code, int) and isinstance(error.get("message"), str) and "id" in message and (id is None or _is_id(id))
    return "" if fits else "An error response needs an id, and a code and a message in its error."


def _is_id(id: Any) -> bool:
    return isinstance(id, str | int) and not isinstance(id, bool)


async def refuse_what_the_sdk_misreads(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Answer a request for a page or a prompt that isn't there with -32602 and the reason, which the SDK would ignore or withhold.

    Raises:
        MCPError: -32602.
    """
    cursor = (ctx.params or {}).get("cursor") if ctx.method.endswith("/list") else None
    if cursor and not (isinstance(cursor, str) and cursor.isspace()):  # an empty one stands for none
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
