"""`autoresearch-mcp adopt`: the owner makes a commit of their own the champion."""

import argparse
import contextlib
import getpass

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp adopt main my-lab", "autoresearch-mcp adopt 3f2a91c --reason 'the loss was summed twice' my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("commit", metavar="COMMIT", help="a branch, a tag or a commit that holds the champion, such as main")
    add_lab(parser)
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, for the record")


def run(arguments: argparse.Namespace) -> int:
    """Make the commit the champion. `demote` takes it back."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        adoption, warnings = lab.adopt(arguments.commit, f"{getpass.getuser()} on the command line", arguments.reason)
        on_the_command_line(lab.record_change, "adopt", adoption.commit)
    say(
        f"The champion is now {adoption.commit[:12]}, no longer {adoption.previous[:12]}. Nobody has measured it yet: "
        "its trainings start with the next candidate's, or by launch_training.",
        *warnings,
    )
    return 0
