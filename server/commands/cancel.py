"""`autoresearch-mcp cancel`: the owner stops an experiment, whoever launched it."""

import argparse
import contextlib

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.models import OWNER

EXAMPLES = ("autoresearch-mcp cancel e-01h2xk3m4n5p6q7 my-lab",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("id", metavar="ID", help="an experiment, as status and watch show them")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Cancel it. The record says that the owner did, so it counts against nobody."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        answer = lab.cancel_experiment(arguments.id, OWNER, anyones=True)
        on_the_command_line(lab.record_change, "cancel", arguments.id)
    say(answer.note)
    return 0
