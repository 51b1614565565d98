"""What an HTTP request passes before it reaches the SDK: its token, headers that can be compared, a body that the SDK can read."""

import base64
import binascii
import hmac

import anyio.to_thread
from mcp.types import INVALID_REQUEST, PARSE_ERROR
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger.access import Token, digest
from autoresearch_mcp.server.mcp.bridge import ANYBODY, CALLER, GUEST, Identity
from autoresearch_mcp.server.mcp.messages import Refusal, refused, whole
from autoresearch_mcp.server.roles import Role

TOKEN = "AUTORESEARCH_TOKEN"  # noqa: S105 the variable's name


class Guests:
    """Knows callers by their tokens. A token that was revoked opens nothing from the next request on.

    Args:
        lab: whose tokens count.
        owner: the owner's own token; empty for none.
        anybody: for whom the server works where no token is needed.
    """

    def __init__(self, lab: Lab, owner: str, anybody: Identity = ANYBODY) -> None:
        self._lab = lab
        self.anybody = anybody
        self._owner = digest(owner) if owner else None
        self._known: tuple[int, dict[str, Token]] | None = None  # the ledger's change counter, and the tokens then

    async def identify(self, secret: str) -> Identity | None:
        """Return whose token it is, or None where it is nobody's. Until there are tokens, anybody is served, whatever they send."""
        tokens = await self._tokens()
        if not tokens and self._owner is None:
            return self.anybody
        hashed = digest(secret)
        if self._owner is not None and hmac.compare_digest(hashed, self._owner):
            return Identity(role=Role.OWNER)
        token = tokens.get(hashed)
        return Identity(token.name, token.role) if token is not None and token.valid else None

    async def _tokens(self) -> dict[str, Token]:
        counter = self._lab.changes()
        if self._known is None or self._known[0] != counter:
            self._known = counter, await anyio.to_thread.run_sync(self._lab.tokens)
        return self._known[1]


class TokenMiddleware:
    """Lets known callers through, and notes who each is. An authorization server's metadata is looked for without a token, and isn't there.

    A token comes as `Bearer`, or as the password of `Basic`, which is what git sends.
    """

    def __init__(self, guests: Guests, app: ASGIApp) -> None:
        self._guests = guests
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 or 401, or pass the request on."""
        if scope["type"] == "http":
            user, token = _credentials(Headers(scope=scope).get("authorization", ""))
            caller = await self._guests.identify(token)
            if caller is not self._guests.anybody and scope["path"].startswith("/.well-known/"):
                await Response("Not Found", 404)(scope, receive, send)
                return
            if caller is None:
                is_git = scope["path"].startswith("/git")
                way = "Give the token as the password, with any user" if is_git else "Send the header `Authorization: Bearer <token>`"
                why = f"{way}, with a valid token of this lab, or the {TOKEN} of the server.\n"
                scheme = 'Basic realm="autoresearch-mcp"' if is_git else "Bearer"
                await Response(why, 401, {"WWW-Authenticate": scheme}, "text/plain")(scope, receive, send)
                return
            scope = {**scope, CALLER: caller, GUEST: user}
        await self._app(scope, receive, send)


def _credentials(header: str) -> tuple[str, str]:
    """Return the user and the token that an `Authorization` header gives; empty for none."""
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "bearer":
        return "", given.strip()
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(given, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


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
