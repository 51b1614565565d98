"""`autoresearch-mcp reap`: an end to sandboxes that no experiment needs."""

import argparse

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.commands.modal import reap

EXAMPLES = ("autoresearch-mcp reap --dry-run",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be ended, and end nothing")


def run(arguments: argparse.Namespace) -> int:
    """End them, and name them."""
    say(*reap(find_lab(arguments.dir), arguments.dry_run) or ["Nothing to end: every sandbox that runs belongs to an experiment."])
    return 0
