"""`autoresearch-mcp import`: another lab's log, taken in."""

import argparse
import contextlib
from pathlib import Path

from autoresearch_mcp.server.commands import transfer
from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp import ../other/out", "autoresearch-mcp import results.tsv my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a results.tsv, a Parquet file of an export, or a folder with them")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Import the files, and say how much of each was new."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        say(*transfer.import_(lab, arguments.source))
    return 0
