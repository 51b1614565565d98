"""`autoresearch-mcp watch`: a lab on the terminal, live."""

import argparse
import contextlib
import sys

from autoresearch_mcp.server.commands import status
from autoresearch_mcp.server.commands.arguments import add_lab, find_lab

EXAMPLES = ("autoresearch-mcp watch my-lab",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--once", action="store_true", help="one frame, then end")


def run(arguments: argparse.Namespace) -> int:
    """Show the lab until Ctrl-C. Without a terminal, show it once."""
    if arguments.once or not sys.stdout.isatty():
        arguments.json = False
        return status.run(arguments)
    from rich.console import Console

    from autoresearch_mcp.server.commands.screen import watch
    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        watch(lab, Console(highlight=False))
    return 0
