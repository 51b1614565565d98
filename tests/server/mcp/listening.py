"""A server process that listens on a free port, as a user starts it."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


class Listening:
    """The process, and where it listens."""

    def __init__(self, root: Path, address: str, environment: dict[str, str], options: Sequence[str] = ()) -> None:
        command = [sys.executable, "-W", "error", "-m", "autoresearch_mcp.server.cli", "serve", str(root), "--http", address, *options]
        self.process = subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        self.url = self.first_line.split()[-1] if self.first_line else ""


@contextlib.contextmanager
def served_over_http(root: Path, address: str = "127.0.0.1:0", options: Sequence[str] = (), **environment: str) -> Iterator[Listening]:
    """Serve the lab until the block ends; `options` are those of the command, the rest is its environment."""
    server = Listening(root, address, environment, options)
    try:
        yield server
    finally:
        server.process.kill()
        sys.stderr.write(server.process.communicate()[1])  # pytest shows it with a test that fails
