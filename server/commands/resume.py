"""`autoresearch-mcp resume`: the owner lets trainings start again."""

import argparse
import contextlib

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, on_the_command_line, say
from autoresearch_mcp.server.lab.lab import Lab

EXAMPLES = ("autoresearch-mcp resume my-lab",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Resume the lab."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        was_paused = lab.resume()
        on_the_command_line(lab.record_change, "resume", "")
    say("Trainings start again." if was_paused else "The lab was not paused; nothing was changed.")
    return 0
