"""get_status over HTTP for 1, 32 and 256 clients at once, against a bare server's bare tool.

The clients are bare sockets, one connection each, because 256 clients of the SDK would take longer than either server.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.runner.lock import stop_runner
from tests.bench.calls import EXPERIMENTS, fill
from tests.bench.servers import bare_over_http, listening
from tests.ports import free_port

CLIENTS = (1, 32, 256)
CALLS = 768  # of each server in one round, shared by the clients
ROUNDS = 5
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def _request(port: int, tool: str) -> bytes:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}, "_meta": META}}
    body = json.dumps(call).encode()
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        "Accept: application/json, text/event-stream\r\n"
        f"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _client(port: int, request: bytes, calls: int, took: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(calls):
        began = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        answer = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        took.append(time.perf_counter() - began)
        assert b'"isError":false' in answer, answer
    writer.close()


async def ask(port: int, tool: str, clients: int) -> tuple[float, float]:
    """Have clients call a tool, all at once. Return the median seconds of a call, and the calls a second of all clients together."""
    took: list[float] = []
    request = _request(port, tool)
    began = time.perf_counter()
    await asyncio.gather(*(_client(port, request, CALLS // clients, took) for _ in range(clients)))
    return statistics.median(took), len(took) / (time.perf_counter() - began)


@contextlib.contextmanager
def serving(root: Path) -> Iterator[int]:
    """Serve a lab over HTTP. Yields the port."""
    port = free_port()
    command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "serve", str(root), "--http", f"127.0.0.1:{port}"]
    with listening(command, port):
        yield port


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    root = scratch / "http"
    create_lab(root, profile="tiny")
    fill(root, EXPERIMENTS)
    rows = []
    with serving(root) as a, bare_over_http() as b:
        for clients in CLIENTS:
            pairs = [(asyncio.run(ask(a, "get_status", clients)), asyncio.run(ask(b, "nothing", clients))) for _ in range(ROUNDS)]
            mine, yardstick = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
            rates = [statistics.median(pair[side][1] for pair in pairs) for side in (0, 1)]
            ratio = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
            what = f"get_status over HTTP, {clients} client{'s' if clients > 1 else ''}"
            ours, theirs = f"{mine * 1e3:.2f} ms, {rates[0]:.0f}/s", f"{yardstick * 1e3:.2f} ms, {rates[1]:.0f}/s (bare tool)"
            rows.append((what, ours, theirs, f"{ratio:.2f}", "1.5" if clients == 1 else ""))
    stop_runner(root / ".autoresearch")
    return rows


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch)):
            print(*row, sep=" | ")
