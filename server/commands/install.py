"""Adds the lab's server to an MCP client's configuration.

Promises: the file is replaced as a whole or not at all, and every byte that is not ours stays as it was. A file that is not
plain JSON (comments, a syntax error) is left alone: the error holds the lines to add by hand.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.trainer import files

NAME = "autoresearch"
EXAMPLES = ("autoresearch-mcp install claude-desktop my-lab --dry-run", "autoresearch-mcp install vscode")
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = json.JSONDecoder()


@dataclass(frozen=True)
class McpClient:
    """Where and how a client is told of its servers.

    Attributes:
        config: returns its configuration file for a lab; the project's own file where the client has one.
        section: the object of that file that holds servers by name.
        typed: whether an entry names its transport.
    """

    config: Callable[[Path], Path]
    section: str = "mcpServers"
    typed: bool = False

    def entry(self, lab: str) -> dict[str, Any]:
        """Return the entry by which this client starts the server for a lab."""
        return {**({"type": "stdio"} if self.typed else {}), **entry(lab)}


def _desktop_config(_: Path) -> Path:
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "Claude" / "claude_desktop_config.json"


CLIENTS = {
    "claude-code": McpClient(lambda lab: lab / ".mcp.json"),
    "claude-desktop": McpClient(_desktop_config),
    "cursor": McpClient(lambda lab: lab / ".cursor" / "mcp.json"),
    "vscode": McpClient(lambda lab: lab / ".vscode" / "mcp.json", section="servers", typed=True),
}
"""The clients that `install` knows: the one list of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("client", choices=tuple(CLIENTS))
    add_lab(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be added, and write nothing")
    parser.add_argument("--config", metavar="FILE", type=Path, help="the configuration file, where it is not at its usual place")
    parser.add_argument("--name", default=NAME, help=f"the server's name there (default: {NAME})")


def run(arguments: argparse.Namespace) -> int:
    """Add the entry, and say where."""
    say(install(arguments.client, find_lab(arguments.dir), arguments.config, arguments.name, arguments.dry_run))
    return 0


def entry(lab: str) -> dict[str, Any]:
    """Return how a client starts the server for a lab: by the console script of this installation, else by this Python."""
    script = Path(sys.executable).with_name("autoresearch-mcp")
    if script.is_file():
        return {"command": str(script), "args": ["serve", lab]}
    command: dict[str, Any] = {"command": sys.executable, "args": ["-P", "-m", "autoresearch_mcp.server.cli", "serve", lab]}
    environment = import_environment()
    return command | ({"env": environment} if environment else {})


def install(client: str, lab: Path, config: Path | None = None, name: str = NAME, dry_run: bool = False) -> str:
    """Write the entry for a lab into a client's configuration.

    Args:
        client: one of `CLIENTS`.
        lab: the lab's directory.
        config: the configuration file, where it is not at its usual place.
        name: of the server, for the client.
        dry_run: only describe the entry, and write nothing.

    Returns:
        What to tell the user.

    Raises:
        LabError: `not_a_lab`, `bad_config` (with the lines to add by hand), `name_taken`, `not_written`.
    """
    lab = lab.resolve()
    if not LabPaths(lab).settings.is_file():
        raise LabError(f"{lab} is not a lab: it has no lab.toml. Make one with `autoresearch-mcp init DIR`.", "not_a_lab")
    path = (config or CLIENTS[client].config(lab)).expanduser().resolve()
    section, server = CLIENTS[client].section, CLIENTS[client].entry(str(lab))
    snippet = json.dumps({section: {name: server}}, indent=2)
    try:
        old = path.read_bytes().decode("utf-8") if path.exists() else ""
        new = merged(old, section, name, server, path.parent)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LabError(f"{path} was left as it is: {reason}. Add this by hand:\n{snippet}", "bad_config") from None
    if new == old:
        return f"{path} has this entry already; nothing to do."
    if dry_run:
        return f"Would add to {path}:\n{snippet}"
    _write(path, new)
    return f"Added {name} to {path}. Restart {client} (or reload its MCP servers) to use it."


def merged(text: str, section: str, name: str, server: dict[str, Any], folder: Path) -> str:
    """Add a server to a JSON configuration, whose other bytes stay as they are.

    Args:
        text: the configuration.
        section: the object that holds servers.
        name: of the server in it.
        server: its entry.
        folder: what relative paths in the configuration start from.

    Returns:
        The new text.

    Raises:
        ValueError: a sentence without its full stop, when the text is not an object of that shape.
        LabError: `name_taken`, when the name serves another lab.
    """
    mark, body = ("\ufeff", text[1:]) if text.startswith("\ufeff") else ("", text)
    newline = "\r\n" if "\r\n" in body else "\n"
    first = re.search(r"\n([ \t]+)\"", body)
    indent = first[1] if first else "  "
    if not body.strip():
        return mark + _dump({section: {name: server}}, indent, 0) + "\n"
    try:
        whole = json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not plain JSON ({error})") from None
    if not isinstance(whole, dict) or not isinstance(whole.get(section, {}), dict):
        raise ValueError(f"it is not an object with an object {section!r}")
    top = _Object.at(body, _SPACE.match(body, 0).end())  # type: ignore[union-attr]
    if section not in whole:
        new = top.put(body, section, _dump({name: server}, indent, 1), indent, 1)
    else:
        present = whole[section].get(name)
        if present == server:
            return text
        if present is not None and _serves(present, folder) != _serves(server, folder):
            raise LabError(f"Its entry {name!r} serves another lab. Choose another name: --name {name}-2.", "name_taken")
        inner = _Object.at(body, top.members[section][0])
        new = inner.put(body, name, _dump(server, indent, 2), indent, 2)
    return mark + new.replace("\r\n", "\n").replace("\n", newline) if newline == "\r\n" else mark + new


class _Object(NamedTuple):
    """Tells where a JSON object and its members' values stand in a text that is known to be valid."""

    start: int
    end: int
    members: dict[str, tuple[int, int]]

    @classmethod
    def at(cls, text: str, start: int) -> "_Object":
        members: dict[str, tuple[int, int]] = {}
        at = start + 1
        while text[at := _SPACE.match(text, at).end()] != "}":  # type: ignore[union-attr]
            key, at = _STRING.raw_decode(text, at)
            begin = _SPACE.match(text, text.index(":", at) + 1).end()  # type: ignore[union-attr]
            _, at = _STRING.raw_decode(text, begin)
            members[key] = (begin, at)
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            at += text[at] == ","
        return cls(start, at + 1, members)

    def put(self, text: str, key: str, value: str, indent: str, depth: int) -> str:
        """Return the text with a member added at the end, or its value replaced."""
        if key in self.members:
            begin, end = self.members[key]
            return text[:begin] + value + text[end:]
        member = f"\n{indent * depth}{json.dumps(key)}: {value}"
        if not self.members:
            return f"{text[: self.start]}{{{member}\n{indent * (depth - 1)}}}{text[self.end :]}"
        last = max(end for _, end in self.members.values())
        return f"{text[:last]},{member}{text[last:]}"


def _dump(value: object, indent: str, depth: int) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False).replace("\n", "\n" + indent * depth)


def _serves(server: object, folder: Path) -> Path | None:
    args = server.get("args") if isinstance(server, dict) else None
    return (folder / args[-1]).resolve() if isinstance(args, list) and args and isinstance(args[-1], str) else None


def _write(path: Path, text: str) -> None:
    """Replace a file at once, with the permissions it had."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        files.write_atomically(path, text.encode(), mode)
    except OSError as error:
        raise LabError(f"{path} could not be written: {error.strerror}. It is as it was.", "not_written") from None
