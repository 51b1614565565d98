"""Describes a server as clients store it: by the command that starts it, or by its address. Each client spells these in its own way."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.installation import import_environment

NAME = "autoresearch"
"""The server's name in a client's configuration."""

TOKEN = "AUTORESEARCH_TOKEN"  # noqa: S105 - the name of a variable
"""The environment variable that holds the token of a server over HTTP."""


@dataclass(frozen=True)
class Launch:
    """How a client starts the server.

    Attributes:
        command: the program.
        args: its arguments; the last one is the lab.
        env: what it needs in its environment.
    """

    command: str
    args: list[str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Address:
    """Where a client finds a running server.

    Attributes:
        url: of the server.
        authorization: the header's value; empty for none.
    """

    url: str
    authorization: str = ""


def launch(*lab: str) -> Launch:
    """Return how to start the server for a lab: by the console script of this installation, else by this Python.

    Args:
        lab: its directory, after options of `serve`; or `--ssh` and the lab on another machine.
    """
    script = Path(sys.executable).with_name("autoresearch-mcp")
    if script.is_file():
        return Launch(str(script), ["serve", *lab])
    return Launch(sys.executable, ["-P", "-m", "autoresearch_mcp.server.cli", "serve", *lab], import_environment())


def plain(server: Launch) -> dict[str, Any]:
    """Return the form that most clients share: `command`, `args` and `env`."""
    return {"command": server.command, "args": server.args, **({"env": server.env} if server.env else {})}


def at_url(server: Address) -> dict[str, Any]:
    """Return the form that most clients share: `url` and `headers`."""
    return {"url": server.url, **headers(server)}


def headers(server: Address) -> dict[str, Any]:
    """Return the headers of an entry; nothing where there are none."""
    return {"headers": {"Authorization": server.authorization}} if server.authorization else {}


def words(entry: object) -> list[str]:
    """Return the command line by which an entry starts its server, in any client's form; empty for an address."""
    if not isinstance(entry, Mapping):
        return []
    command, args = entry.get("command", entry.get("cmd")), entry.get("args", [])
    return [str(word) for word in ([command] if isinstance(command, str) else command or []) + (args if isinstance(args, list) else [])]


def url(entry: object) -> str:
    """Return the address in an entry, in any client's form; empty where there is none."""
    keys = ("url", "httpUrl", "serverUrl", "uri")
    return next((str(entry[key]) for key in keys if key in entry), "") if isinstance(entry, Mapping) else ""


def target(entry: object, folder: Path) -> str:
    """Return what an entry serves: a lab's folder or an address. Two entries with one target may replace each other.

    Args:
        entry: in any client's form.
        folder: what relative paths start from.
    """
    line = words(entry)
    return url(entry) or (str((folder / line[-1]).resolve()) if line else "")
