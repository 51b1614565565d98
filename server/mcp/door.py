"""What lies beside `/mcp` on an HTTP server: each door answers what is below its path, and passes everything else on."""

from abc import ABC, abstractmethod

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.bridge import CALLER
from autoresearch_mcp.server.roles import ANYBODY, Identity, Role


class Door(ABC):
    """Answers what is below a path, and passes everything else on.

    Attributes:
        path: what it answers, and all below it.
        takes_json: whether a POST must bring JSON.

    Args:
        lab: whose door it is.
        security: which Host and Origin headers are accepted.
        app: comes next.
    """

    path: str
    takes_json = False

    def __init__(self, lab: Lab, security: TransportSecuritySettings, app: ASGIApp) -> None:
        self._lab = lab
        self._security = TransportSecurityMiddleware(security)
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http" or not f"{scope['path']}/".startswith(f"{self.path}/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        is_post = self.takes_json and request.method == "POST"
        refusal = await self._security.validate_request(request, is_post=is_post) or self.refusal(request)
        if refusal is None:
            await self.answer(request, send)
        else:
            await refusal(scope, receive, send)

    @abstractmethod
    def refusal(self, request: Request) -> Response | None:
        """Return what to answer to a request that may not be worked at; None for one that may."""

    @abstractmethod
    async def answer(self, request: Request, send: Send) -> None:
        """Answer a request."""


def caller(request: Request) -> Identity:
    """Return who asks."""
    identity: Identity = request.scope.get(CALLER, ANYBODY)
    return identity


def workers_only(request: Request, what: str) -> PlainTextResponse | None:
    """Return a refusal where the caller is less than a worker; None where it may. `what` it asks for opens the sentence."""
    identity = caller(request)
    if identity.role is None or identity.role.covers(Role.WORKER):
        return None
    why = f"{what} takes the role worker, and {identity.name or 'this caller'} is a {identity.role} here.\n"
    return PlainTextResponse(why, 403, {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="worker"'})
