"""Our server on a lab, and the bare one: both over stdio, or as processes that listen."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mcp import StdioServerParameters

from tests.ports import free_port, listens
from tests.waiting import until

# Both from compiled bytecode, as an installed server runs, whatever the caller's environment says of it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

_BARE = str(Path(__file__).with_name("bare_server.py"))
BARE = StdioServerParameters(command=sys.executable, args=[_BARE], env=ENVIRONMENT)


def ours(root: Path) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-P", "-m", "autoresearch_mcp.server.cli", "serve", str(root)], env=ENVIRONMENT
    )


@contextlib.contextmanager
def listening(command: list[str], port: int) -> Iterator[None]:
    """Run a server until the block ends, which begins once it listens."""
    process = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until(lambda: listens(port))
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def bare_over_http() -> Iterator[int]:
    """Run the bare server, and yield its port."""
    port = free_port()
    with listening([sys.executable, _BARE, str(port)], port):
        yield port


@contextlib.contextmanager
def mirror_over_http(answers: Path) -> Iterator[int]:
    """Run the bare server that answers what is in a file, and yield its port."""
    port = free_port()
    with listening([sys.executable, str(Path(__file__).with_name("mirror_server.py")), str(port), str(answers)], port):
        yield port
