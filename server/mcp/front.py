"""What an HTTP request passes before it reaches the SDK: the token, and a body that the SDK can read."""

import hmac
import json

from mcp.types import INVALID_REQUEST
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoresearch_mcp.server.mcp.messages import misshapen, whole

TOKEN = "AUTORESEARCH_TOKEN"  # noqa: S105 the variable's name


class BearerTokenMiddleware:
    """Lets those requests through that carry the token. Metadata of an authorization server is looked for without one, and isn't there."""

    def __init__(self, token: str, app: ASGIApp) -> None:
        self._expected = token.encode()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 or 401, or pass the request on."""
        if scope["type"] == "http":
            if scope["path"].startswith("/.well-known/"):
                await Response("Not Found", 404)(scope, receive, send)
                return
            scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._expected):
                refusal = Response(f"Send the header `Authorization: Bearer <token>`, with the {TOKEN} of the server.\n", 401)
                refusal.headers["WWW-Authenticate"] = "Bearer"
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class ReadableMessages:
    """Passes whole, repaired messages on, and answers what can be none. Expects a body that comes in one part."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 405 or 400, or pass the request on; an upload that was dropped is forgotten."""
        if scope["type"] != "http" or scope["path"] != "/mcp":
            await self._app(scope, receive, send)
            return
        if scope["method"] in ("GET", "DELETE"):  # nothing is ever pushed, and there are no sessions to end
            await _refusal(405, "Only POST is served here: nothing is pushed, and there are no sessions.", Allow="POST")(
                scope, receive, send
            )
            return
        message = await receive()
        if message["type"] != "http.request" or message.get("more_body"):
            return
        body = message.get("body", b"")
        try:
            parsed = from_json(body)
        except ValueError:
            body = whole(body.decode("utf-8", "replace")).encode()
            try:
                parsed = json.loads(body)
            except (ValueError, RecursionError):
                parsed = None  # the SDK says what is wrong with it
        if why := misshapen(parsed):
            await _refusal(400, why)(scope, receive, send)
            return
        again: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return again.pop() if again else await receive()

        await self._app(scope, replay, send)


def _refusal(status: int, why: str, **headers: str) -> Response:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": why}}
    return JSONResponse(error, status, headers)
