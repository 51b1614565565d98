"""`autoresearch-mcp demote`: the owner takes the last promotion back."""

import argparse
import contextlib
import getpass

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp demote my-lab", "autoresearch-mcp demote --reason 'it prints a made-up loss' my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--reason", metavar="TEXT", default="", help="why, for the record")


def run(arguments: argparse.Namespace) -> int:
    """Demote the champion. Nothing is erased, and no agent can promote that commit again; `approve` can."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        demotion = lab.demote(f"{getpass.getuser()} on the command line", arguments.reason)
        on_the_command_line(lab.record_change, "demote", demotion.previous)
    say(
        f"The champion is {demotion.commit[:12]} again. {demotion.previous[:12]} is kept, and only `autoresearch-mcp approve` can promote it. "
        "What is built on it still holds its change, and has to win at the gate with it."
    )
    return 0
