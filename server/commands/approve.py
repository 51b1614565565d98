"""`autoresearch-mcp approve`: a person's yes to a promotion."""

import argparse
import contextlib
import getpass

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp approve 3f2a91c my-lab",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("commit", metavar="COMMIT", help="a proposal's commit, or 7 or more of its first characters")
    add_lab(parser)
    parser.add_argument("--by", metavar="NAME", help="who says yes (default: you)")


def run(arguments: argparse.Namespace) -> int:
    """Promote the commit, if the gate agrees.

    Returns:
        1 where it doesn't.
    """
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        approved_by = f"{arguments.by or getpass.getuser()} on the command line"
        answer = lab.promote_commit(arguments.commit, author="owner", approved_by=approved_by)
        if answer.promoted:
            on_the_command_line(lab.record_change, "approve", answer.champion)
    say(answer.note)
    return 0 if answer.promoted else 1
