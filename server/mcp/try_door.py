"""`POST /try`: what `autoresearch-mcp try` asks of a lab that it reaches over HTTP alone."""

from dataclasses import asdict

import anyio.to_thread
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.lab.trying import MOST_S
from autoresearch_mcp.server.mcp.bridge import ANYBODY, CALLER, Identity
from autoresearch_mcp.server.roles import Role

PATH = "/try"


class Question(BaseModel):
    """What is to be tried: see `Trying.try_code`."""

    model_config = ConfigDict(extra="forbid")
    base: str = Field(max_length=100, pattern=r"^[A-Za-z0-9_./-]+$")
    changes: dict[str, str | None]
    seconds: float = Field(gt=0, le=MOST_S)


class TryDoor:
    """Answers `POST /try`, and passes everything else on.

    Args:
        lab: where it is tried.
        security: which Host and Origin headers are accepted.
        app: comes next.
    """

    def __init__(self, lab: Lab, security: TransportSecuritySettings, app: ASGIApp) -> None:
        self._lab = lab
        self._security = TransportSecurityMiddleware(security)
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        if scope["method"] != "POST":
            response: Response | None = PlainTextResponse("Only POST is served here.\n", 405, {"Allow": "POST"})
        else:
            response = await self._security.validate_request(request, is_post=True)
        await (response or await self._answer(request))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        caller: Identity = request.scope.get(CALLER, ANYBODY)
        if caller.role is not None and not caller.role.covers(Role.WORKER):
            return PlainTextResponse(f"A try takes the role worker, and {caller.name or 'this caller'} is a {caller.role} here.\n", 403)
        try:
            asked = Question.model_validate_json(await request.body())
            answer = await anyio.to_thread.run_sync(self._lab.try_code, asked.base, asked.changes, asked.seconds, abandon_on_cancel=True)
        except ValidationError:
            return PlainTextResponse("This is no question of `autoresearch-mcp try`: update it.\n", 400)
        except LabError as error:
            return PlainTextResponse(f"{mask_paths(str(error), self._lab.root)}\n", 409)
        return JSONResponse([{name: mask_paths(text, self._lab.root) for name, text in asdict(each).items()} for each in answer])
