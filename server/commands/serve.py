"""`autoresearch-mcp serve`: a lab for MCP clients."""

import argparse
import os
import re
from pathlib import Path

from autoresearch_mcp.server.commands.arguments import HOME, add_lab, find_lab, is_lab, nearest_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.roles import Identity, Role

EXAMPLES = (
    "autoresearch-mcp serve my-lab",
    "autoresearch-mcp serve --as ada --role worker my-lab",
    "autoresearch-mcp serve --ssh box:my-lab",
    "AUTORESEARCH_TOKEN=... autoresearch-mcp serve my-lab --http 0.0.0.0:8765",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--http", metavar="HOST:PORT", help="Streamable HTTP instead of stdio; beyond this machine callers need tokens (see `token create`)"
    )
    parser.add_argument(
        "--allow-host",
        metavar="HOST",
        action="append",
        default=[],
        help="with --http: accept this Host header too, as a TLS proxy keeps it",
    )
    parser.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="with --http: let web pages of this origin call (CORS); '*' lets all, and then callers need tokens",
    )
    parser.add_argument(
        "--as", dest="name", metavar="NAME", help="sign every call as this agent, and refuse calls that name another author"
    )
    parser.add_argument(
        "--role",
        choices=[role.value for role in Role],
        help="offer only what this role may do: a viewer reads, a worker proposes and launches, an orchestrator promotes, sweeps and cancels "
        "what others launched (default: all but that)",
    )
    parser.add_argument("--certfile", metavar="FILE", type=Path, help="with --http: encrypt with this certificate, and its --keyfile")
    parser.add_argument("--keyfile", metavar="FILE", type=Path, help="with --certfile: its private key")
    parser.add_argument("--ssh", metavar="HOST:DIR", help="serve a lab that lives on another machine, by the server there, over ssh")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client goes away, or until a signal."""
    if arguments.ssh is not None:
        return _serve_far(arguments)
    lab, identity = _find_lab(arguments.dir), _identity(arguments.name, arguments.role)
    if arguments.http is None:
        from autoresearch_mcp.server.mcp.stdio import serve_stdio

        serve_stdio(lab, identity)
    else:
        from autoresearch_mcp.server.mcp.http import serve_http
        from autoresearch_mcp.server.page.door import page_of_a_swarm

        certificate = _certificate(arguments.certfile, arguments.keyfile)
        serve_http(lab, arguments.http, identity, arguments.allow_host, arguments.allow_origin, certificate, page_of_a_swarm)
    return 0


def _serve_far(arguments: argparse.Namespace) -> int:
    """Serve a lab on another machine.

    Raises:
        LabError: `bad_option`, for what belongs to a server of this machine, or the codes of `relay`.
    """
    if arguments.http is not None or arguments.dir is not None:
        raise LabError("--ssh HOST:DIR goes without --http and without another lab: the server runs on HOST.", "bad_option")
    from autoresearch_mcp.server.commands.far import relay

    given = {"--as": arguments.name, "--role": arguments.role}
    return relay(arguments.ssh, [word for option, value in given.items() if value for word in (option, str(value))])


def _identity(name: str | None, role: str | None) -> Identity:
    """Return for whom to serve.

    Raises:
        LabError: `bad_author`, for a name that no agent can have, or a role over others without one.
    """
    from autoresearch_mcp.server.mcp.arguments import AUTHOR, FORMS

    wanted = None if role is None else Role(role)
    if name is None and wanted is not None and wanted.covers(Role.ORCHESTRATOR):
        raise LabError(f"--role {role} needs --as NAME: else every client of this server would have that role.", "bad_author")
    if name is not None and (len(name) > 64 or not re.fullmatch(AUTHOR, name)):
        raise LabError(f"--as {name[:80]!r} is no agent's name. A name has at most 64 characters and is {FORMS[AUTHOR]}.", "bad_author")
    return Identity(name or "", wanted)


def _certificate(certfile: Path | None, keyfile: Path | None) -> tuple[Path, Path] | None:
    """Return the certificate and its key, if any is wanted.

    Raises:
        LabError: `bad_certificate`, where one is missing.
    """
    if certfile is None and keyfile is None:
        return None
    if certfile is None or keyfile is None or not certfile.is_file() or not keyfile.is_file():
        raise LabError("--certfile and --keyfile go together, and both must name a file that can be read.", "bad_certificate")
    return certfile, keyfile


def _find_lab(given: Path | None) -> Path:
    """Return the lab to serve. A client may start `serve .` in a folder of the lab's, or somewhere else altogether.

    Args:
        given: as on the command line; "." is the nearest lab upwards, else `$AUTORESEARCH_LAB`.

    Raises:
        LabError: `not_a_lab`.
    """
    here = Path.cwd()
    if given == Path():
        if (lab := nearest_lab(here)) is not None or os.environ.get(HOME):
            return lab or find_lab(None)
    elif given is None or is_lab(find_lab(given)) or given.expanduser().is_absolute():
        return find_lab(given)
    raise LabError(
        f"`serve {given}` was started in {here}, where no such lab is. In the configuration of the client that starts it (such as .mcp.json), "
        f'replace "{given}" by the full path of the lab, or run `autoresearch-mcp install CLIENT LAB`, which writes it.',
        "not_a_lab",
    )
