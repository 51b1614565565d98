"""`autoresearch-mcp branch`: the promotions as a clean branch, ready for a pull request."""

import argparse
import contextlib

from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp branch overnight my-lab",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("name", metavar="NAME", help="of the branch, which must be new")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Make the branch in the lab's repository, and name its commits."""
    with contextlib.closing(Lab(existing_lab(arguments.dir))) as lab:
        commits = lab.publish(arguments.name)
        on_the_command_line(lab.record_change, "branch", arguments.name)
    count = f"{len(commits)} commits, one a promotion" if len(commits) > 1 else "one commit"
    say(f"{arguments.name} has {count}. See it: git log -p {arguments.name}")
    return 0
