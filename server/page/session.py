"""Who looks at the page: a token that a login page put into a cookie, and the mark by which a form is known to be the page's own."""

import hashlib
import hmac
import secrets
from urllib.parse import parse_qsl, quote, unquote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from autoresearch_mcp.server.mcp.front import Guests
from autoresearch_mcp.server.roles import ANYBODY, Identity

_KEPT_S = 30 * 86_400
_LONGEST = 4_000  # characters of a token that is looked at: an issuer's is long, and a browser keeps no longer cookie


class Sessions:
    """Tells visitors apart. It keeps nothing, so a session goes on when the server starts again, and ends when its token does."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests
        self._secret = secrets.token_bytes(32)

    async def visitor(self, request: Request) -> Identity | None:
        """Return who asks, or None where a token is needed. Who proved nothing has no role here, whatever the server's `--role` lets tools do."""
        visitor = await self._guests.identify(_token(request))
        return ANYBODY if visitor is self._guests.anybody else visitor

    async def log_in(self, request: Request, token: str, response: Response) -> bool:
        """Put a valid token into a cookie that no script can read. Return whether it was valid."""
        if len(token) > _LONGEST or await self._guests.identify(token) in (None, self._guests.anybody):
            return False
        response.set_cookie(
            cookie(request),
            quote(token, safe=""),
            max_age=_KEPT_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https",
        )
        return True

    def mark(self, request: Request) -> str:
        """Return what a form of this visitor's carries. A page of another origin can't read it."""
        return hmac.new(self._secret, _token(request).encode(), hashlib.sha256).hexdigest()

    def is_own(self, request: Request, mark: str) -> bool:
        """Return whether a form came from this page."""
        return same_origin(request.headers) and hmac.compare_digest(mark.encode(), self.mark(request).encode())


def cookie(request: Request) -> str:
    """Return the cookie's name. Pages of other labs on this machine have other ports, and a browser sends them all the same cookies."""
    return f"autoresearch_session_{request.scope['server'][1]}"


def same_origin(headers: Headers) -> bool:
    """Return whether a request comes from a page of this server, as far as the browser tells."""
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


async def fields(request: Request) -> dict[str, str]:
    """Return the fields of a form."""
    body = (await request.body()).decode("utf-8", "replace")
    return dict(parse_qsl(body, max_num_fields=20))


def _token(request: Request) -> str:
    return unquote(request.cookies.get(cookie(request), ""))[:_LONGEST]
