"""Sends requests to a host by OpenSSH itself: keys, agents, aliases and jump hosts are as `~/.ssh/config` has them.

One connection a host is shared by all requests (`ControlMaster`), and one request is on its way at a time. Nothing ever asks: a
password, an unknown host key or one that changed is an error in words.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from autoresearch_mcp.server.compute.line import there
from autoresearch_mcp.server.untrusted import one_line

_SSH_FAILED = 255  # the status of ssh's own failures; any other is the remote command's
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TERM", "XDG_RUNTIME_DIR", "KRB5CCNAME", "DISPLAY")
_READ = "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"
_LOAD = """import sys, types
for name, size in {sizes}:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(sys.stdin.buffer.read(size), name, "exec"), module.__dict__)
module.main()
"""
_OURS = "$HOME/.autoresearch-mcp/venv/bin/python"


class HostAway(Exception):
    """The host doesn't answer now, or its answer was lost. Another try may help."""


class HostRefused(Exception):
    """Nothing can be done on the host before its owner has done something. The text says what."""


@dataclass(frozen=True)
class Patience:
    """How long a line may be silent, in seconds.

    Attributes:
        connect_s: For a connection to begin.
        alive_s: Of silence, after which ssh asks whether the other end is there. Three such questions end the connection.
        request_s: For a request.
    """

    connect_s: int = 15
    alive_s: int = 10
    request_s: float = 60.0


class Ssh:
    """Talks to one host.

    Args:
        host: As ssh knows it.
        python: On the host; empty is the one that `setup ssh` makes, else `python3`.
        command: The program ssh.
        patience: How long the line may be silent.
    """

    def __init__(self, host: str, python: str = "", command: str = "ssh", patience: Patience | None = None) -> None:
        if host.startswith("-"):
            raise ValueError(f"{host!r} is no host: it begins with -")
        self.host, self.command, self._remote = host, command, _remote_command(python)
        self._patience, self._turn = patience or Patience(), asyncio.Lock()

    async def ask(
        self, request: Mapping[str, Any], timeout_s: float | None = None, modules: Sequence[ModuleType] = (there,)
    ) -> dict[str, Any]:
        """Send a request to modules that run there, and return their answer.

        Args:
            request: What they are to do.
            timeout_s: Seconds that it may take; None is what a short one may.
            modules: Sent with it, under their own names: each may import those before it. `main` of the last one answers.

        Raises:
            HostAway: No answer came. What was asked may have been done.
            HostRefused: The host can't do it, or doesn't let us in.
        """
        async with self._turn:
            return await self._ask(request, timeout_s or self._patience.request_s, await asyncio.to_thread(_program, modules))

    async def _ask(self, request: Mapping[str, Any], timeout_s: float, program: bytes) -> dict[str, Any]:
        mark = secrets.token_hex(16)
        body = json.dumps({**request, "mark": mark}).encode()
        try:
            status, out, err = await self._run(["-T", "--", self.host, self._remote], program + body, timeout_s)
        except TimeoutError:
            with contextlib.suppress(OSError, TimeoutError):  # a stalled connection would hold up the next request too
                await self._run(["-O", "exit", "--", self.host], b"", 5.0)
            raise HostAway(f"no answer within {timeout_s:g} s") from None
        except OSError as error:
            raise HostRefused(f"ssh can't be started here: {error.strerror}") from error
        parts = out.split(mark.encode())
        if len(parts) != 3:
            raise _failure(self.host, status, err)
        answer: dict[str, Any] = json.loads(parts[1])
        if "refused" in answer:
            reason = one_line(str(answer["refused"]), 300)
            raise HostRefused(f"{reason}. Run `autoresearch-mcp setup ssh {self.host}`, or name its Python as {_key(self.host)}")
        return answer

    async def _run(self, arguments: Sequence[str], given: bytes, timeout_s: float) -> tuple[int, bytes, str]:
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(self._patience.connect_s),
            "ServerAliveInterval": str(self._patience.alive_s),
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": f"{_sockets()}/{os.getpid():x}-%C",
            "ControlPersist": "60",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "RequestTTY": "no",
        }
        own = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith("SSH_")}
        given_options = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        with tempfile.TemporaryFile() as errors:  # a pipe would stay open for as long as the shared connection
            process = await asyncio.create_subprocess_exec(
                self.command,
                *given_options,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=own,
                cwd="/",
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(timeout_s):
                    out, _ = await process.communicate(given)
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
            errors.seek(0)
            return process.returncode or 0, out, errors.read(100_000).decode(errors="replace")


def _program(modules: Sequence[ModuleType]) -> bytes:
    """Return what a Python there reads and runs, with the length of its first part before it."""
    sources = [Path(str(module.__file__)).read_bytes() for module in modules]
    load = _LOAD.format(sizes=[(module.__name__, len(source)) for module, source in zip(modules, sources, strict=True)]).encode()
    return b"%d\n%b%b" % (len(load), load, b"".join(sources))


def _failure(host: str, status: int, err: str) -> HostAway | HostRefused:
    """Return what a request without an answer means."""
    lines = err.strip().splitlines()[-1 if "Traceback" in err else -3 :]  # what a host greets with stands before
    text = one_line(" ".join(" ".join(lines).split()), 300) or f"ssh ended with status {status}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in err:
        return HostRefused(
            f"the host key of {host} changed, which may be somebody in between. Ask whoever runs it; then `ssh-keygen -R` the old key"
        )
    if "Host key verification failed" in err:
        return HostRefused(f"the host key of {host} is not known here. Run `ssh {host}` once, and compare it")
    if "Permission denied" in err and status == _SSH_FAILED:
        return HostAway(
            f"it doesn't let us in without asking ({text}). Load the key into your agent, then `ssh -o BatchMode=yes {host}` works"
        )
    if status in (126, 127):
        return HostRefused(f"no Python can be started there ({text}). Name one as {_key(host)}")
    return HostAway(text)


def _key(host: str) -> str:
    """Return the key of lab.toml that names a host's Python."""
    return f"`python` in [compute.ssh.{host}], or in [compute.slurm] where it is a login node"


def _remote_command(python: str) -> str:
    """Return one line that every login shell reads alike: it starts a Python, which reads the rest from its input."""
    if not python:
        find = f'p="{_OURS}"; [ -x "$p" ] || p=python3'
    elif python.startswith("~/"):
        find = f'p="$HOME"/{shlex.quote(python[2:])}'
    else:
        find = f"p={shlex.quote(python)}"
    return "exec sh -c " + shlex.quote(f'{find}; exec "$p" -c "{_READ}"')


def _sockets() -> Path:
    """Return the folder of this user's shared connections. Its path is short, since a socket's is limited to about 100 bytes."""
    folder = Path(f"/tmp/autoresearch-ssh-{os.getuid()}")  # noqa: S108
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise PermissionError(1, f"{folder} is not this user's alone")
    return folder
