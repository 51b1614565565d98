"""`POST /try`: what `autoresearch-mcp try` asks of a lab that it reaches over HTTP alone."""

from dataclasses import asdict

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Send

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.lab.trying import MOST_S
from autoresearch_mcp.server.mcp.door import Door, workers_only

PATH = "/try"


class Question(BaseModel):
    """What is to be tried: see `Trying.try_code`."""

    model_config = ConfigDict(extra="forbid")
    base: str = Field(max_length=100, pattern=r"^[A-Za-z0-9_./-]+$")
    changes: dict[str, str | None]
    seconds: float = Field(gt=0, le=MOST_S)


class TryDoor(Door):
    """Answers `POST /try`, and passes everything else on."""

    path = PATH
    takes_json = True

    def refusal(self, request: Request) -> Response | None:
        """Refuse what is no POST of a worker."""
        if request.method != "POST":
            return PlainTextResponse("Only POST is served here.\n", 405, {"Allow": "POST"})
        return workers_only(request, "A try")

    async def answer(self, request: Request, send: Send) -> None:
        """Try the code, and answer with the findings."""
        response = await self._try(request)
        await response(request.scope, request.receive, send)

    async def _try(self, request: Request) -> Response:
        try:
            asked = Question.model_validate_json(await request.body())
            answer = await anyio.to_thread.run_sync(self._lab.try_code, asked.base, asked.changes, asked.seconds, abandon_on_cancel=True)
        except ValidationError:
            return PlainTextResponse("This is no question of `autoresearch-mcp try`: update it.\n", 400)
        except LabError as error:
            return PlainTextResponse(f"{mask_paths(str(error), self._lab.root)}\n", 409)
        return JSONResponse([{name: mask_paths(text, self._lab.root) for name, text in asdict(each).items()} for each in answer])
