"""`autoresearch-mcp serve`: a lab for MCP clients."""

import argparse
import os
from pathlib import Path

from autoresearch_mcp.server.commands.arguments import HOME, add_lab, find_lab, is_lab, nearest_lab
from autoresearch_mcp.server.errors import LabError

EXAMPLES = ("autoresearch-mcp serve my-lab", "AUTORESEARCH_TOKEN=... autoresearch-mcp serve my-lab --http 0.0.0.0:8765")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--http", metavar="HOST:PORT", help="Streamable HTTP instead of stdio; beyond this machine $AUTORESEARCH_TOKEN must be set"
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
        help="with --http: let web pages of this origin call (CORS); '*' lets all, and then $AUTORESEARCH_TOKEN must be set",
    )
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client goes away, or until a signal."""
    lab = _find_lab(arguments.dir)
    if arguments.http is None:
        from autoresearch_mcp.server.mcp.stdio import serve_stdio

        serve_stdio(lab)
    else:
        from autoresearch_mcp.server.mcp.http import serve_http

        serve_http(lab, arguments.http, hosts=arguments.allow_host, origins=arguments.allow_origin)
    return 0


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
