"""`autoresearch-mcp withdraw`: the owner takes a proposal out of all lists, whoever made it."""

import argparse
import contextlib

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.models import OWNER

EXAMPLES = (
    "autoresearch-mcp withdraw 3f2a9c1d7e64 --reason 'the idea is another one than its text says' my-lab",
    "autoresearch-mcp withdraw 3f2a9c1d7e64 --correct 'A batch of 2048, not of 4096, makes twice the steps.' my-lab",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("commit", metavar="COMMIT", help="the proposal")
    add_lab(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--reason", metavar="TEXT", default="", help="why, for the record and its author")
    which.add_argument("--correct", metavar="TEXT", default="", help="instead: correct its text; after its first result, add a dated note")


def run(arguments: argparse.Namespace) -> int:
    """Withdraw it, or correct its text. It stays in the record."""
    commit, correct = arguments.commit, arguments.correct
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        if correct:
            say(lab.amend(commit, OWNER, correct, anyones=True).note)
            on_the_command_line(lab.record_change, "withdraw --correct", commit)
        else:
            say(lab.withdraw(commit, OWNER, arguments.reason, anyones=True).note)
            on_the_command_line(lab.record_change, "withdraw", commit)
    return 0
