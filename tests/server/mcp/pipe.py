"""A server process spoken to in raw lines."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVE = "import sys; from pathlib import Path; from autoresearch_mcp.server.mcp.stdio import serve_stdio; serve_stdio(Path(sys.argv[1]))"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
NO_MESSAGES: list[tuple[str, int, int | str | None]] = [
    ('{"jsonrpc": "2.0", "id": null, "method": "tools/list"}', -32600, None),
    ('{"jsonrpc": "2.0", "id": 1.5, "method": "tools/list"}', -32600, None),
    ('{"jsonrpc": "2.0", "id": true, "method": "tools/list"}', -32600, None),
    ('{"jsonrpc": "2.0", "id": ["a"], "method": "tools/list"}', -32600, None),
    ('[{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]', -32600, None),
    ("[]", -32600, None),
    ("{bad", -32700, None),
    ('{"jsonrpc": "2.0", "id": 1, "method": "tools/list"', -32700, None),
    ('"hi"', -32600, None),
    ("5", -32600, None),
    ("null", -32600, None),
    ("{}", -32600, None),
    ('{"id": 1, "method": "tools/list"}', -32600, 1),
    ('{"jsonrpc": "1.0", "id": "a", "method": "tools/list"}', -32600, "a"),
    ('{"jsonrpc": "2.0", "id": 1}', -32600, 1),
    ('{"jsonrpc": "2.0", "id": 1, "method": 5}', -32600, 1),
    ('{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": []}', -32600, 1),
    ('{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": "all"}', -32600, 1),
    ('{"jsonrpc": "2.0", "method": "notifications/initialized", "params": [1]}', -32600, None),
    ('{"jsonrpc": "2.0", "id": 1, "result": 5}', -32600, 1),
    ('{"jsonrpc": "2.0", "id": 1, "error": {"code": "x"}}', -32600, 1),
]  # texts that can be no message, with the code that refuses each and the id that the answer has
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}


class Pipe:
    """A server process and its two pipes."""

    def __init__(self, root: Path, code: str = SERVE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def send(self, message: dict[str, Any] | str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((message if isinstance(message, str) else json.dumps({"jsonrpc": "2.0"} | message)) + "\n")
        self.process.stdin.flush()

    def ask(self, id: int, method: str, **params: Any) -> dict[str, Any]:
        self.send({"id": id, "method": method, "params": params})
        return self.next(id)

    def next(self, id: int | str | None) -> dict[str, Any]:
        assert self.process.stdout is not None
        reply: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert reply["id"] == id, reply
        return reply

    def end(self) -> tuple[int, str, str]:
        """Close its input and let it go: exit status, the rest of stdout, stderr."""
        rest, errors = self.process.communicate(timeout=10)
        return self.process.returncode, rest, errors


@contextlib.contextmanager
def served(root: Path, code: str = SERVE) -> Iterator[Pipe]:
    pipe = Pipe(root, code)
    try:
        yield pipe
    finally:
        pipe.process.kill()
        pipe.process.communicate()
