"""`autoresearch-mcp status`: a lab at a glance."""

import argparse
import contextlib
import json

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.untrusted import safe

EXAMPLES = ("autoresearch-mcp status my-lab", "autoresearch-mcp status --json | jq .champion")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Show the lab once."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        answer = lab.status()
    if arguments.json:
        say(json.dumps(safe(answer.model_dump(mode="json")), indent=2, ensure_ascii=False))
        return 0
    from rich.console import Console

    from autoresearch_mcp.server.commands.screen import frame

    Console(highlight=False).print(frame(answer))
    return 0
