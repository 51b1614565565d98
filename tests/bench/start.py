"""From starting the process to the answer of tools/list, against a bare `MCPServer`."""

import statistics
import time
from pathlib import Path

import anyio
from mcp import StdioServerParameters
from mcp.client import Client

from autoresearch_mcp.server.commands.init import create_lab
from tests.bench.servers import BARE, ours

ROUNDS = 11


async def _start(server: StdioServerParameters) -> float:
    began = time.perf_counter()
    async with Client(server) as client:
        await client.list_tools()
        return time.perf_counter() - began


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    root = scratch / "start"
    create_lab(root, profile="tiny")
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for server in (ours(root), BARE):
        anyio.run(_start, server)
    for _ in range(ROUNDS):
        times["bare"].append(anyio.run(_start, BARE))
        times["ours"].append(anyio.run(_start, ours(root)))
    mine, bare = statistics.median(times["ours"]), statistics.median(times["bare"])
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["bare"]))
    return [("start to tools/list", f"{mine * 1e3:.0f} ms", f"{bare * 1e3:.0f} ms (bare MCPServer)", f"{ratio:.2f}", "1.15")]
