"""`autoresearch-mcp alerts`: where a lab's alerts go, what still waits to be sent, and whether a test arrives."""

import argparse
import contextlib

from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab, say

EXAMPLES = ("autoresearch-mcp alerts my-lab", "autoresearch-mcp alerts --test my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--test", action="store_true", help="send each webhook a test now, and say what became of it; status 1 if one failed"
    )
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the webhooks without their addresses, and send them a test if that is asked for."""
    from autoresearch_mcp.server.lab.lab import Lab

    with contextlib.closing(Lab(existing_lab(arguments.dir))) as lab:
        places = lab.alerting.places(test=arguments.test)
        if not places:
            say("lab.toml names no webhooks: see docs/alerts.md. No alert is sent.")
            return 0
        for number, place in enumerate(places, 1):
            waiting = f"; {place.waiting} waiting" if place.waiting else ""
            say(f"{number}. {place.form}, {place.where}, on {', '.join(place.kinds)}{waiting}: {place.state}")
    return 1 if arguments.test and any(not place.is_well for place in places) else 0
