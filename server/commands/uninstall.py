"""`autoresearch-mcp uninstall`: takes the lab's server out of an MCP client's configuration."""

import argparse
from pathlib import Path

from autoresearch_mcp.server.clients import CLIENTS, NAME
from autoresearch_mcp.server.clients.table import Scope
from autoresearch_mcp.server.commands.arguments import find_lab, say
from autoresearch_mcp.server.commands.install import add_client, write
from autoresearch_mcp.server.errors import LabError

EXAMPLES = ("autoresearch-mcp uninstall cursor my-lab", "autoresearch-mcp uninstall codex --scope user --dry-run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_client(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove the entry, and say from where."""
    in_user_file = CLIENTS[arguments.client].scope(arguments.scope) == "user" or arguments.config is not None
    folder = Path.cwd() if in_user_file and arguments.dir is None else find_lab(arguments.dir)
    say(uninstall(arguments.client, folder, arguments.config, arguments.name, arguments.scope, arguments.dry_run))
    return 0


def uninstall(
    client: str, folder: Path, config: Path | None = None, name: str = NAME, scope: Scope | None = None, dry_run: bool = False
) -> str:
    """Remove a server from a client's configuration; every other byte stays as it was.

    Args:
        client: one of `CLIENTS`.
        folder: the lab's, whose configuration is meant.
        config: the configuration file, where it is not at its usual place.
        name: of the server, for the client.
        scope: the project's by default, where the client has one.
        dry_run: only say what would be done.

    Returns:
        What to tell the user.

    Raises:
        LabError: `no_such_scope`, `bad_config`, `not_written`.
    """
    kind = CLIENTS[client]
    path = (config or kind.config(folder.resolve(), scope)).expanduser().resolve()
    try:
        old = path.read_bytes().decode("utf-8") if path.exists() else ""
        if name not in kind.format.servers(old, kind.section):
            return f"{path} has no entry {name!r}; nothing to do."
        new = kind.format.remove(old, kind.section, name)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LabError(f"{path} was left as it is: {reason}. Remove the entry {name!r} by hand.", "bad_config") from None
    if dry_run:
        return f"Would remove {name} from {path}."
    return f"Removed {name} from {path}. The old file is {write(path, new, backup=True)}."
