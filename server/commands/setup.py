"""`autoresearch-mcp setup`: what trainings on rented GPUs share, or an account of the lab's own, made once."""

import argparse

from autoresearch_mcp.server.commands.account import ADDRESS, USER
from autoresearch_mcp.server.commands.account import set_up as set_up_account
from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab, find_lab, say
from autoresearch_mcp.server.commands.modal import set_up

EXAMPLES = (
    "autoresearch-mcp setup modal --dry-run",
    "autoresearch-mcp setup modal my-lab --gpu H100",
    "sudo autoresearch-mcp setup account /srv/my-lab --agent ada --agent bob",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("where", choices=("modal", "account"), help="who rents the GPUs out; or an account of the lab's own, on Linux")
    parser.add_argument("--gpu", metavar="KIND", help="the kind to tell the cost of, and to compile for (default: all of the lab's)")
    add_lab(parser)
    parser.add_argument("--user", metavar="NAME", default=USER, help=f"account: its name (default: {USER})")
    parser.add_argument("--agent", metavar="NAME", action="append", default=[], help="account: make a worker's token for this agent too")
    parser.add_argument("--http", metavar="HOST:PORT", default=ADDRESS, help=f"account: where it serves the lab (default: {ADDRESS})")
    parser.add_argument("--dry-run", action="store_true", help="print what would be made and what it costs, and make nothing")


def run(arguments: argparse.Namespace) -> int:
    """Say what it costs, then make what is missing."""
    if arguments.where == "account":
        set_up_account(existing_lab(arguments.dir).resolve(), arguments.user, arguments.agent, arguments.http, arguments.dry_run, say)
        return 0
    set_up(find_lab(arguments.dir), arguments.gpu, arguments.dry_run, say)
    return 0
