"""`autoresearch-mcp setup`: what trainings on rented GPUs share, made once."""

import argparse

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.commands.modal import set_up

EXAMPLES = ("autoresearch-mcp setup modal --dry-run", "autoresearch-mcp setup modal my-lab --gpu H100")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("where", choices=("modal",), help="who rents the GPUs out")
    parser.add_argument("--gpu", metavar="KIND", help="the kind to tell the cost of, and to compile for (default: all of the lab's)")
    add_lab(parser)
    parser.add_argument("--dry-run", action="store_true", help="print what would be made and what it costs, and make nothing")


def run(arguments: argparse.Namespace) -> int:
    """Say what it costs, then make what is missing."""
    set_up(find_lab(arguments.dir), arguments.gpu, arguments.dry_run, say)
    return 0
