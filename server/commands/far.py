"""Speaks for a lab that lives on another machine: the server there, over ssh's own input and output. No port, no token."""

import os
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from autoresearch_mcp.server.errors import LabError

_OURS = "$HOME/.autoresearch-mcp/venv/bin/autoresearch-mcp"
_CHUNK = 1 << 16
_NOT_THERE = 127  # a shell's status where there is no such program
_OPTIONS = {
    "BatchMode": "yes",  # it never asks
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",  # a line that is dead ends, and the client starts another
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
}


def relay(address: str, options: list[str]) -> int:
    """Serve a far lab to the client on this process's input and output, until either goes away.

    What the machine's login profile prints is left out: the server's words begin behind a mark.

    Args:
        address: The lab, as `HOST:PATH`.
        options: Of `serve` there.

    Returns:
        ssh's exit status.

    Raises:
        LabError: `bad_address`, `no_ssh`, `not_installed`.
    """
    host, path = parse(address)
    mark = secrets.token_hex(16)
    where = shlex.quote(path) if path.startswith("/") else f'"$HOME"/{shlex.quote(path.removeprefix("~/"))}'
    serve = f'exec "$p" serve {shlex.join(options)} -- {where}'
    script = f'p="{_OURS}"; [ -x "$p" ] || p=autoresearch-mcp; echo; echo {mark}; {serve}'
    given = [part for name, value in _OPTIONS.items() for part in ("-o", f"{name}={value}")]
    command = ["ssh", "-T", *given, "--", host, f"exec sh -c {shlex.quote(script)}"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    except OSError as error:
        raise LabError(f"ssh can't be started here: {error.strerror}.", "no_ssh") from error
    with _ending(process):
        assert process.stdout is not None
        source = process.stdout.fileno()
        for chunk in _behind(mark, source):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        status = process.wait()
    if status == _NOT_THERE:
        raise LabError(f"autoresearch-mcp is not on {host}. Run `autoresearch-mcp setup ssh {host}` here.", "not_installed")
    return status


def parse(address: str) -> tuple[str, str]:
    """Return the host and the lab's path there.

    Raises:
        LabError: `bad_address`.
    """
    host, colon, path = address.partition(":")
    if not host or host.startswith("-") or not colon or not path or path.startswith("-") or not (host + path).isprintable():
        raise LabError(f"{address[:200]!r} names no lab on another machine. Write HOST:PATH, such as box:my-lab.", "bad_address")
    return host, path


def _behind(mark: str, source: int) -> Iterator[bytes]:
    """Read from a descriptor until its end, and return what stands behind the line `mark`."""
    line, before = f"\n{mark}\n".encode(), b"\n"
    while chunk := os.read(source, _CHUNK):
        before += chunk
        _, found_line, rest = before.partition(line)
        if found_line:
            if rest:
                yield rest
            break
        before = before[-len(line) :]
    while chunk := os.read(source, _CHUNK):
        yield chunk


@contextmanager
def _ending(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End ssh with this process."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: process.terminate())
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
