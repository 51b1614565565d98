"""`autoresearch-mcp scores`: the hidden split, for the lab's owner."""

import argparse
import json
from dataclasses import asdict

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.commands.hidden_scores import findings, hidden_scores, table

EXAMPLES = ("autoresearch-mcp scores my-lab", "autoresearch-mcp scores --json | jq '.[0]'")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the scores of every commit that has any, and where checks of models failed."""
    lab = find_lab(arguments.dir)
    scores = hidden_scores(lab)
    if arguments.json:
        say(json.dumps([asdict(row) for row in scores], indent=2))
    elif not scores:
        say("Nothing was scored on the hidden split yet.")
    else:
        from rich.console import Console

        Console(highlight=False).print(table(scores))
    if not arguments.json:
        for experiment, commit, finding in findings(lab):
            say(f"refused: {experiment} of {commit[:12]}: {finding}")
    return 0
