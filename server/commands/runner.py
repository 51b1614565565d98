"""`autoresearch-mcp runner`: the process that drives a lab's experiments."""

import argparse

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab

EXAMPLES = ("autoresearch-mcp runner my-lab",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Drive the lab until there is nothing left to do. See `autoresearch_mcp.server.runner.process`."""
    from autoresearch_mcp.server.lab.alerts_beside import alerts_beside
    from autoresearch_mcp.server.runner.process import main

    root = find_lab(arguments.dir)
    with alerts_beside(root):
        return main(root)
