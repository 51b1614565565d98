"""`autoresearch-mcp export`: the log in files."""

import argparse
import contextlib
from pathlib import Path

from autoresearch_mcp.server.commands import transfer
from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp export out", "autoresearch-mcp export out my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("out", metavar="FOLDER", type=Path, help="made if it is missing")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the files, and name them."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        say(*transfer.export(lab, arguments.out))
    return 0
