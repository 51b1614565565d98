"""What an HTTP request passes before it reaches the SDK: its token, headers that can be compared, a body that the SDK can read."""

import base64
import binascii
import hmac
import re

import anyio
import anyio.to_thread
from mcp.types import INVALID_REQUEST, PARSE_ERROR
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger.access import Token, digest
from autoresearch_mcp.server.mcp.bridge import CALLER, GUEST
from autoresearch_mcp.server.mcp.messages import Refusal, refused, whole
from autoresearch_mcp.server.mcp.oauth import Issuer
from autoresearch_mcp.server.mcp.sharing import Shared
from autoresearch_mcp.server.roles import ANYBODY, TOKEN, Identity, Role
from autoresearch_mcp.server.settings.auth import AuthSection

METADATA = "/.well-known/oauth-protected-resource"
_ENDPOINT = "/mcp"


class Guests:
    """Knows callers by their tokens: the lab's, the owner's, and those of the issuer in `[auth]`.

    A token of the lab that was revoked opens nothing from the next request on.

    Args:
        lab: whose tokens count.
        owner: the owner's own token; empty for none.
        anybody: for whom the server works where no token is needed.
    """

    def __init__(self, lab: Lab, owner: str, anybody: Identity = ANYBODY) -> None:
        self._lab = lab
        self.anybody = anybody
        self._owner = digest(owner) if owner else None
        self._known: tuple[tuple[int, int], dict[str, Token]] | None = None  # what tells whether there are others, and the tokens
        self._reading = Shared(self._read)
        self._issuer = Issuer(self.auth)
        self._asking = anyio.CapacityLimiter(4)  # an issuer that is slow takes no threads from the lab

    @property
    def auth(self) -> AuthSection:
        """Return the lab's settings of now."""
        return self._lab.settings.auth

    async def identify(self, secret: str) -> Identity | None:
        """Return whose token it is, or None where it is nobody's. Until there are tokens, anybody is served, whatever they send."""
        tokens = await self._tokens()
        if not tokens and self._owner is None and not self.auth.issuer:
            return self.anybody
        hashed = digest(secret)
        if self._owner is not None and hmac.compare_digest(hashed, self._owner):
            return Identity(role=Role.OWNER)
        token = tokens.get(hashed)
        if token is not None and token.valid:
            return Identity(token.name, token.role)
        if not self.auth.issuer or not secret:
            return None
        if self._issuer.auth != self.auth:
            self._issuer = Issuer(self.auth)
        caller = await anyio.to_thread.run_sync(self._issuer.identify, secret, limiter=self._asking)
        is_taken = caller is not None and any(each.name == caller.name and each.valid for each in tokens.values())
        return None if is_taken else caller  # two who sign with one name could change each other's work

    async def _tokens(self) -> dict[str, Token]:
        if self._known is not None and self._known[0] == self._lab.tokens_version():
            return self._known[1]
        return await self._reading.get()

    async def _read(self) -> dict[str, Token]:
        version = self._lab.tokens_version()
        self._known = version, await anyio.to_thread.run_sync(self._lab.tokens)
        return self._known[1]


class TokenMiddleware:
    """Lets known callers through, and notes who each is. Tells others where tokens come from (RFC 6750, RFC 9728).

    A token comes as `Bearer`, or as the password of `Basic`, which is what git sends.
    """

    def __init__(self, guests: Guests, app: ASGIApp) -> None:
        self._guests = guests
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 200, 404 or 401, or pass the request on."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            user, token = _credentials(headers.get("authorization", ""))
            caller = await self._guests.identify(token)
            if caller is not self._guests.anybody and scope["path"].startswith("/.well-known/"):
                await self._metadata(scope)(scope, receive, send)
                return
            if caller is None:
                await self._challenge(scope, "authorization" in headers)(scope, receive, send)
                return
            scope = {**scope, CALLER: caller, GUEST: user}
        await self._app(scope, receive, send)

    def _metadata(self, scope: Scope) -> Response:
        server = _server(scope)
        if scope["path"] not in (METADATA, METADATA + _ENDPOINT) or not server:
            return Response("Not Found", 404)
        auth = self._guests.auth
        fields = {
            "resource": server + _ENDPOINT,
            "resource_name": "autoresearch",
            "bearer_methods_supported": ["header"],
            "scopes_supported": list(auth.roles) if auth.role_claim == "scope" else [],
        }
        return JSONResponse(
            {name: value for name, value in fields.items() if value} | ({"authorization_servers": [auth.issuer]} if auth.issuer else {}),
            headers={"Cache-Control": "no-store"},
        )

    def _challenge(self, scope: Scope, gave_one: bool) -> Response:
        is_git = scope["path"].startswith("/git")
        way = "Give the token as the password, with any user" if is_git else "Send the header `Authorization: Bearer <token>`"
        why = f"{way}, with a valid token of this lab, or the {TOKEN} of the server.\n"
        if is_git:
            return Response(why, 401, {"WWW-Authenticate": 'Basic realm="autoresearch-mcp"'}, "text/plain")
        server, auth = _server(scope), self._guests.auth
        scopes = [name for name, role in auth.roles.items() if role is Role.WORKER] if auth.role_claim == "scope" else []
        fields = {
            "error": "invalid_token" if gave_one else "",
            "resource_metadata": f"{server}{METADATA}{_ENDPOINT}" if server else "",
            "scope": " ".join(each for each in scopes if re.fullmatch(r"[!#-\[\]-~]+", each)),
        }
        challenge = "Bearer " + ", ".join(f'{name}="{value}"' for name, value in fields.items() if value)
        return Response(why, 401, {"WWW-Authenticate": challenge}, "text/plain")


def _server(scope: Scope) -> str:
    """Return the server's address as the client called it; empty where its Host header is none."""
    host = Headers(scope=scope).get("host", "")
    return f"{scope['scheme']}://{host}" if re.fullmatch(r"[A-Za-z0-9.:\[\]-]{1,255}", host) else ""


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
