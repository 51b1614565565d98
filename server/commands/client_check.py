"""Checks the client's side of a lab: which configurations hold it, whether what they start is there, and whether it lists its tools."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server import __version__
from autoresearch_mcp.server.clients import CLIENTS, McpClient, target
from autoresearch_mcp.server.clients.entries import words
from autoresearch_mcp.server.lab.findings import Finding

_START_S = 20.0
_HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "doctor", "version": __version__}}


def examine(root: Path) -> list[Finding]:
    """Return a finding for each configuration that serves this lab; a note where none does. Each command is started once."""
    started: dict[tuple[str, ...], Finding] = {}
    findings = []
    for client, path, entry in _entries(root):
        line = tuple(words(entry))
        if line not in started:
            started[line] = _start(list(line), _environment(entry), path.parent)
        outcome = started[line]
        findings.append(Finding("client", outcome.grade, f"{client} ({path}): {outcome.text}", outcome.hint))
    if findings:
        return findings
    hint = f"autoresearch-mcp install CLIENT {root}"
    return [Finding("client", "note", "no client's configuration starts a server for this lab", hint)]


def _entries(root: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Find the entries that serve this lab, in the files of the lab's folder and of this user."""
    done = set()
    for name, client in CLIENTS.items():
        for path in _files(client, root):
            if path in done or not path.is_file():
                continue
            try:
                servers = client.format.servers(path.read_text("utf-8"), client.section)
            except (ValueError, OSError):  # `install` says what is wrong with it
                continue
            for entry in servers.values():
                if words(entry) and target(entry, root if root in path.parents else path.parent) == str(root):
                    done.add(path)
                    yield name, path, entry


def _files(client: McpClient, root: Path) -> list[Path]:
    return [*(root / name for name in client.project), *(client.user() if client.user else ())]


def _environment(entry: dict[str, Any]) -> dict[str, str]:
    given: dict[str, Any] = next((entry[key] for key in ("env", "environment", "envs") if isinstance(entry.get(key), dict)), {})
    return {**os.environ, **{str(name): str(value) for name, value in given.items()}}


def _start(command: list[str], environment: dict[str, str], folder: Path) -> Finding:
    """Start what an entry starts, ask for its tools, and end it."""
    if shutil.which(command[0], path=environment.get("PATH")) is None:
        hint = "Install the package where that command was, or run `autoresearch-mcp install` again."
        return Finding("client", "bad", f"there is no command {command[0]}", hint)
    hint = f"Run it by hand: {' '.join(command)}"
    pipe = subprocess.PIPE
    try:  # without a buffer: to close the pipe of a server that has ended must not fail
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0)
    except OSError as error:
        return Finding("client", "bad", f"{command[0]} can't be started: {error.strerror}", hint)
    with process:
        try:
            version, tools = _asked(process)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return Finding("client", "bad", f"`{' '.join(command)}` doesn't answer as a server of a lab", hint)
        finally:
            process.kill()
    if version != __version__:
        return Finding("client", "note", f"it starts version {version}, and this is {__version__}", "Run `autoresearch-mcp install` again.")
    missing = [name for name in TOOLS if name not in tools]
    text = f"it starts, and lists {len(tools)} tools" + (f"; its role has no {', '.join(missing)}" if missing else "")
    return Finding("client", "ok", text)


def _asked(process: "subprocess.Popen[bytes]") -> tuple[str, list[str]]:
    """Return the server's version, and its tools.

    Raises:
        ValueError: it ended, answered something else, or not in time.
    """
    deadline = time.monotonic() + _START_S
    lines = _lines(process, deadline)
    hello = _ask(process, lines, {"id": 0, "method": "initialize", "params": _HELLO})
    _send(process, {"method": "notifications/initialized"})
    listed = _ask(process, lines, {"id": 1, "method": "tools/list"})
    return str(hello["serverInfo"]["version"]), [str(tool["name"]) for tool in listed["tools"]]


def _ask(process: "subprocess.Popen[bytes]", lines: Iterator[bytes], message: dict[str, Any]) -> dict[str, Any]:
    _send(process, message)
    for line in lines:
        answer = json.loads(line)
        if answer.get("id") == message["id"]:
            result: dict[str, Any] = answer["result"]
            return result
    raise ValueError("no answer")


def _send(process: "subprocess.Popen[bytes]", message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")


def _lines(process: "subprocess.Popen[bytes]", deadline: float) -> Iterator[bytes]:
    """Yield what the server writes, line by line, until it ends or the time is up."""
    assert process.stdout is not None
    rest = b""
    while select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
        if not (read := os.read(process.stdout.fileno(), 1 << 16)):
            return
        *whole, rest = (rest + read).split(b"\n")
        yield from whole
