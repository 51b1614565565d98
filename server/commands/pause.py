"""`autoresearch-mcp pause`: the owner lets no training start."""

import argparse
import contextlib

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp pause my-lab", "autoresearch-mcp pause --now my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--now", action="store_true", help="stop what runs, too: it waits again, and starts anew after `resume`")


def run(arguments: argparse.Namespace) -> int:
    """Pause the lab. Agents are told when they launch something, and in the status."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        running = lab.pause(arguments.now)
        on_the_command_line(lab.record_change, "pause", "now" if arguments.now else "")
    what = "being stopped, to wait again" if arguments.now else "running to the end"
    say(f"Paused: nothing starts. {running} trainings are {what}. `autoresearch-mcp resume` lets them start again.")
    return 0
