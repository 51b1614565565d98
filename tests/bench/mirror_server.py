"""The bare server at the load of a lab: the smallest that the SDK makes, with tools and pages that answer what a lab answered, whatever is asked.

python mirror_server.py PORT FILE, whose JSON holds the answers by tool and path.
"""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

TRAINED_S = 1.2  # for which a training is waited for
EVENT_S = 2.0  # between events of an open page

server = MCPServer("mirror", version="1", log_level="WARNING")
ANSWERS: dict[str, Any] = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))


@server.tool()
async def get_status() -> dict[str, Any]:
    """Return the lab at a glance."""
    return dict(ANSWERS.get("get_status", {}))


@server.tool()
async def read_file() -> str:
    """Read a file."""
    return str(ANSWERS.get("read_file", ""))


@server.tool()
async def query_experiments(limit: int = 20) -> dict[str, Any]:
    """Return experiments."""
    return dict(ANSWERS.get("query_experiments", {}))


@server.tool()
async def search_memory(query: str = "") -> dict[str, Any]:
    """Return memories."""
    return dict(ANSWERS.get("search_memory", {}))


@server.tool()
async def write_memory(kind: str, text: str, author: str) -> dict[str, Any]:
    """Keep a memory."""
    return dict(ANSWERS.get("write_memory", {}))


@server.tool()
async def propose_patch(hypothesis: str, edits: list[dict[str, str]], author: str, base: str) -> dict[str, Any]:
    """Propose a change."""
    return dict(ANSWERS.get("propose_patch", {}))


@server.tool()
async def launch_training(commit: str, author: str, idempotency_key: str, confirm: bool) -> dict[str, Any]:
    """Train."""
    return dict(ANSWERS.get("launch_training", {}))


@server.tool()
async def wait_for_experiments(ids: list[str], timeout_s: int) -> dict[str, Any]:
    """Wait."""
    await anyio.sleep(TRAINED_S)
    return dict(ANSWERS.get("wait_for_experiments", {}))


def main() -> None:
    """Serve until this process is killed."""

    async def page(request: Request) -> Response:
        return Response(ANSWERS.get(request.url.path, "</html>"), media_type="text/html")

    async def events(request: Request) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            while True:
                yield "data: 1\n\n"
                await anyio.sleep(EVENT_S)

        return StreamingResponse(stream(), media_type="text/event-stream")

    app = server.streamable_http_app(stateless_http=True)
    app.add_route("/events", events)
    app.add_route("/{path:path}", page)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
