"""What an HTTP request passes before it reaches the SDK: the token, headers that can be compared, a body that the SDK can read."""

import hmac

from mcp.types import INVALID_REQUEST, PARSE_ERROR
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoresearch_mcp.server.mcp.messages import Refusal, refused, whole

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
        if scope["method"] != "POST":  # nothing is ever pushed, and there are no sessions to end
            why = Refusal(INVALID_REQUEST, "Only POST is served here: nothing is pushed, and there are no sessions.")
            await JSONResponse(why.answer(), 405, {"Allow": "POST"})(scope, receive, send)
            return
        message = await receive()
        if message["type"] != "http.request" or message.get("more_body"):
            return
        body = message.get("body", b"")
        refusal = refused(body)
        if refusal is not None and refusal.code == PARSE_ERROR:  # it may be half a character, which can be repaired
            body = whole(body.decode("utf-8", "replace")).encode()
            refusal = refused(body)
        if refusal is not None:
            await JSONResponse(refusal.answer(), 400)(scope, receive, send)
            return
        again: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return again.pop() if again else await receive()

        await self._app(scope, replay, send)


class ComparableHeaders:
    """Writes Host and Origin in lower case, as the SDK compares them letter by letter.

    Args:
        app: comes next.
        any_origin: whether pages of every origin may call, for which the SDK has no setting: it then sees no Origin.
    """

    def __init__(self, app: ASGIApp, any_origin: bool = False) -> None:
        self._app = app
        self._any_origin = any_origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            headers = [
                (name, value.lower() if name in (b"host", b"origin") else value)
                for name, value in scope["headers"]
                if not (self._any_origin and name == b"origin")
            ]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)
