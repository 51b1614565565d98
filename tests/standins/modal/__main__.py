"""`python -m tests.standins.modal ROOT`: serve until stdin ends; the first line on stdout says where, as JSON."""

import asyncio
import base64
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp.web
import grpclib.server
from grpclib import GRPCError, Status
from grpclib.events import RecvRequest, listen

from tests.standins.modal.plane import Plane

TOKEN = ("ak-standin", "as-standin")


async def serve(root: Path) -> None:
    plane = Plane(root)

    async def authenticate(event: RecvRequest) -> None:
        if (event.metadata.get("x-modal-token-id"), event.metadata.get("x-modal-token-secret")) != TOKEN:
            raise GRPCError(Status.UNAUTHENTICATED, "unknown token")

    async def put_block(request: aiohttp.web.Request) -> aiohttp.web.Response:
        plane.blocks[request.match_info["digest"]] = await request.read()
        return aiohttp.web.Response(body=b"ok")

    async def get_block(request: aiohttp.web.Request) -> aiohttp.web.Response:
        where = request.match_info
        data = plane.volume_path(where["volume"], where["path"]).read_bytes()
        start = int(where["start"])
        return aiohttp.web.Response(body=data[start : start + int(where["length"])])

    async def control(request: aiohttp.web.Request) -> aiohttp.web.Response:
        orders: dict[str, Any] = await request.json()
        for id in orders.pop("preempt", []):
            await plane.container(id).preempt()
        for name, value in orders.items():
            setattr(plane, name, value)
        state = {"containers": [c.described() for c in plane.containers.values()], "unimplemented": plane.unimplemented}
        state["calls"] = {name: plane.calls.count(name) for name in set(plane.calls)}
        state["requests"] = {name: base64.b64encode(request).decode() for name, request in plane.requests.items()}
        return aiohttp.web.json_response(state)

    http = aiohttp.web.Application(client_max_size=64 << 20)
    http.add_routes(
        [
            aiohttp.web.put("/block/{digest}", put_block),
            aiohttp.web.get("/volume/{volume}/{start}/{length}/{path:.*}", get_block),
            aiohttp.web.post("/control", control),
        ]
    )
    runner = aiohttp.web.AppRunner(http, access_log=None)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    plane.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    server = grpclib.server.Server([plane])
    listen(server, RecvRequest, authenticate)
    await server.start("127.0.0.1", 0)
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    print(json.dumps({"server": f"http://127.0.0.1:{port}", "control": plane.url + "/control"}), flush=True)
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: os.read(0, 1) or gone.set())
    await gone.wait()
    for container in plane.containers.values():
        container.kill()
    shutil.rmtree(root, ignore_errors=True)


asyncio.run(serve(Path(sys.argv[1])))
