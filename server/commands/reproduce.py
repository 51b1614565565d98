"""`autoresearch-mcp reproduce`: an experiment trained again with its seed."""

import argparse
import contextlib
import getpass
import sys
import time

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = (
    "autoresearch-mcp reproduce e-01h2xk3m4n5p6q7 my-lab",
    "autoresearch-mcp reproduce e-01h2xk8v2w4r6t9        # the second run: waits for it, and compares",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("id", metavar="ID", help="an experiment that has ended, or a reproduction that this command started")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train it again, unless that was begun before; wait for the end, and compare.

    Returns:
        1 where the result differs.
    """
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        id = arguments.id if lab.is_reproduction(arguments.id) else lab.reproduce(arguments.id, getpass.getuser())
        say(f"{id} is queued or runs; Ctrl-C leaves it running, and `autoresearch-mcp reproduce {id}` comes back to it.")
        sys.stdout.flush()
        while (result := lab.reproduction(id)) is None:
            lab.states([id])  # wakes the runner if it is gone
            time.sleep(1)
    say(*result.lines())
    return 1 if result.holds is False else 0
