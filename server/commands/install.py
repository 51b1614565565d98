"""Adds the lab's server to an MCP client's configuration.

Promises: the file is replaced as a whole or not at all, and every byte that is not ours stays as it was. Where an entry of ours is
replaced, a copy of the old file stays beside it. A file that can't be edited so is left alone: the error holds the lines to add by hand.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.clients import CLIENTS, NAME, TOKEN, Address, McpClient, launch, merged
from autoresearch_mcp.server.clients.table import Scope
from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.commands.far import parse
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.trainer import files

EXAMPLES = (
    "autoresearch-mcp install claude-desktop my-lab --dry-run",
    "autoresearch-mcp install codex my-lab --scope user",
    "autoresearch-mcp install claude-code my-lab --ssh user@box",
    "autoresearch-mcp install cursor --url https://lab.example/mcp --token",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_client(parser)
    parser.add_argument(
        "--url", metavar="URL", help="add a server that runs already (`serve --http`), instead of one that the client starts"
    )
    parser.add_argument(
        "--ssh", metavar="HOST", help="add a lab that lives on another machine: the client starts the server there, over ssh"
    )
    parser.add_argument("--token", action="store_true", help=f"with --url: send ${TOKEN} as the bearer token")
    parser.add_argument("--print", action="store_true", help="print the entry alone, to copy or to pipe, and write nothing")


def add_client(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say whose configuration is meant: shared with `uninstall`."""
    parser.add_argument("client", choices=tuple(CLIENTS))
    add_lab(parser)
    parser.add_argument(
        "--scope", choices=("project", "user"), help="whose configuration: the lab's folder (where the client has one) or yours"
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="the configuration file, where it is not at its usual place")
    parser.add_argument("--name", default=NAME, help=f"the server's name there (default: {NAME})")
    parser.add_argument("--dry-run", action="store_true", help="print what would be changed, and write nothing")


def run(arguments: argparse.Namespace) -> int:
    """Add the entry, and say where."""
    if arguments.token and not arguments.url:
        raise LabError("--token goes with --url: a server that the client starts needs no token.", "bad_option")
    far = ""
    if arguments.ssh:
        if arguments.url or arguments.dir is None:
            raise LabError("--ssh HOST goes with the lab's path there, and without --url.", "bad_option")
        far = f"{arguments.ssh}:{arguments.dir}"
    lab = find_lab(arguments.dir) if not far and (arguments.dir or not arguments.url) else Path.cwd()
    install = Install(arguments.client, lab, arguments.config, arguments.name, arguments.scope, arguments.url or "", arguments.token, far)
    say(install.snippet() if arguments.print else install.apply(arguments.dry_run))
    return 0


class Install:
    """Adds one server to one client's configuration."""

    def __init__(
        self,
        client: str,
        lab: Path,
        config: Path | None = None,
        name: str = NAME,
        scope: Scope | None = None,
        url: str = "",
        token: bool = False,
        far: str = "",
    ) -> None:
        """Prepare the entry.

        Args:
            client: one of `CLIENTS`.
            lab: the lab's directory; with `url` or `far`, the project's.
            config: the configuration file, where it is not at its usual place.
            name: of the server, for the client.
            scope: the project's by default, where the client has one.
            url: of a server that runs; empty for one that the client starts.
            token: whether to send `$AUTORESEARCH_TOKEN` to it.
            far: the lab on another machine, as `HOST:PATH`; empty for one of this machine.

        Raises:
            LabError: `bad_address`, `not_a_lab`, `no_such_scope`, `no_http`, `bad_url`, `no_token`, `token_in_project`.
        """
        self._client, self._name = client, name
        self._folder, self._kind = lab.resolve(), CLIENTS[client]
        self._scope = self._kind.scope(scope)
        self._private = False
        if url:
            self._entry = self._remote(url, token)
        elif far:
            parse(far)
            self._entry = self._kind.stdio(launch("--ssh", far))
        else:
            if not LabPaths(self._folder).settings.is_file():
                raise LabError(f"{self._folder} is not a lab: it has no lab.toml. Make one with `autoresearch-mcp init DIR`.", "not_a_lab")
            self._entry = self._kind.stdio(launch(str(self._folder)))
        self._path = (config or self._kind.config(self._folder, self._scope)).expanduser().resolve()

    def snippet(self) -> str:
        """Return a configuration that holds this entry alone."""
        return self._kind.format.snippet(self._kind.section, self._name, self._entry).rstrip("\n")

    def apply(self, dry_run: bool = False) -> str:
        """Write the entry.

        Args:
            dry_run: only describe it, and write nothing.

        Returns:
            What to tell the user.

        Raises:
            LabError: `bad_config` (with the lines to add by hand), `name_taken`, `not_written`.
        """
        try:
            old = self._path.read_bytes().decode("utf-8") if self._path.exists() else ""
            new = merged(self._kind.format, old, self._kind.section, self._name, self._entry, self._path.parent)
            replaces = self._name in self._kind.format.servers(old, self._kind.section)
        except (ValueError, OSError) as error:
            raise LabError(f"{self._path} was left as it is: {_reason(error)}. Add this by hand:\n{self.snippet()}", "bad_config") from None
        if new == old:
            return f"{self._path} has this entry already; nothing to do.\nTo check: {self._kind.check}"
        if dry_run:
            return f"Would add to {self._path}:\n{self.snippet()}"
        kept = f" The old file is {write(self._path, new, backup=replaces, private=self._private)}." if replaces else ""
        if not replaces:
            write(self._path, new, private=self._private)
        return f"Added {self._name} to {self._path}.{kept} Restart {self._client} (or reload its MCP servers) to use it.\nTo check: {self._kind.check}"

    def _remote(self, url: str, token: bool) -> dict[str, Any]:
        kind: McpClient = self._kind
        if kind.http is None:
            raise LabError(
                f"{self._client} takes no server over HTTP in its configuration. Leave out --url: it then starts one.", "no_http"
            )
        if not url.startswith(("http://", "https://")):
            raise LabError(f"--url {url[:200]!r} is no address: it starts with http:// or https://.", "bad_url")
        if not token:
            return kind.http(Address(url))
        value = kind.token
        if not value:
            if self._scope == "project":
                raise LabError(
                    f"{self._client} reads no variables in its configuration, and a project's file is no place for a token. Use --scope user"
                    + (", or another client." if kind.user is None else "."),
                    "token_in_project",
                )
            value, self._private = os.environ.get(TOKEN, ""), True
            if not value:
                raise LabError(
                    f"{self._client} reads no variables, so its file holds the token itself. Set ${TOKEN} and try again.", "no_token"
                )
        return kind.http(Address(url, f"Bearer {value}"))


def write(path: Path, text: str, backup: bool = False, private: bool = False) -> Path:
    """Replace a file at once, with the permissions it had.

    Args:
        path: of the file.
        text: its new content.
        backup: whether to keep the old file beside it.
        private: whether only its user may read it.

    Returns:
        Where the old file is kept.

    Raises:
        LabError: `not_written`.
    """
    copy = path.with_name(f"{path.name}.bak")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = (path.stat().st_mode & 0o777 if path.exists() else 0o644) & (0o700 if private else 0o777)
        if backup:
            files.write_atomically(copy, path.read_bytes(), mode)
        files.write_atomically(path, text.encode(), mode)
    except OSError as error:
        raise LabError(f"{path} could not be written: {error.strerror}. It is as it was.", "not_written") from None
    return copy


def _reason(error: ValueError | OSError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else str(error)
