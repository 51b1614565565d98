"""`autoresearch-mcp ui`: the page of a lab, for its owner, on this machine alone."""

import argparse
import secrets
import webbrowser

from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab

EXAMPLES = ("autoresearch-mcp ui my-lab", "autoresearch-mcp ui --no-browser --port 8766 my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--port", type=int, default=0, help="to listen on (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C. Who has the address is the owner there, so it holds a key that only this run knows."""
    from autoresearch_mcp.server.page.serving import serve_page

    serve_page(existing_lab(arguments.dir), arguments.port, secrets.token_urlsafe(24), None if arguments.no_browser else webbrowser.open)
    return 0
