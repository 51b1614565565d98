"""`autoresearch-mcp setup`: what trainings on rented GPUs share, or an account of the lab's own, made once."""

import argparse
import asyncio
import re

from autoresearch_mcp.server.commands.account import ADDRESS, USER
from autoresearch_mcp.server.commands.account import set_up as set_up_account
from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab, find_lab, say
from autoresearch_mcp.server.commands.modal import set_up
from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.line.setup import set_up as set_up_host
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.settings.ssh import HOST

EXAMPLES = (
    "autoresearch-mcp setup modal --dry-run",
    "autoresearch-mcp setup modal my-lab --gpu H100",
    "autoresearch-mcp setup ssh user@box",
    "sudo autoresearch-mcp setup account /srv/my-lab --agent ada --agent bob",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    text = "who rents the GPUs out; an account of the lab's own, on Linux; or a machine behind ssh, named in place of DIR"
    parser.add_argument("where", choices=("modal", "account", "ssh"), help=text)
    parser.add_argument("--gpu", metavar="KIND", help="the kind to tell the cost of, and to compile for (default: all of the lab's)")
    add_lab(parser)
    parser.add_argument(
        "--python", metavar="FILE", default="", help="ssh: the Python there to build on (default: one that has torch, else the newest)"
    )
    parser.add_argument("--user", metavar="NAME", default=USER, help=f"account: its name (default: {USER})")
    parser.add_argument("--agent", metavar="NAME", action="append", default=[], help="account: make a worker's token for this agent too")
    parser.add_argument("--http", metavar="HOST:PORT", default=ADDRESS, help=f"account: where it serves the lab (default: {ADDRESS})")
    parser.add_argument("--dry-run", action="store_true", help="print what would be made and what it costs, and make nothing")


def run(arguments: argparse.Namespace) -> int:
    """Say what it costs, then make what is missing."""
    if arguments.where == "account":
        set_up_account(existing_lab(arguments.dir).resolve(), arguments.user, arguments.agent, arguments.http, arguments.dry_run, say)
        return 0
    if arguments.where == "ssh":
        return _set_up_host(str(arguments.dir or ""), arguments.python, arguments.dry_run)
    set_up(find_lab(arguments.dir), arguments.gpu, arguments.dry_run, say)
    return 0


def _set_up_host(host: str, python: str, dry_run: bool) -> int:
    """Put this program on a host.

    Returns:
        1 if something there needs its owner, else 0.

    Raises:
        LabError: `bad_option`, `not_installed`.
    """
    if not re.fullmatch(HOST, host):
        raise LabError("Name the machine as ssh knows it: `autoresearch-mcp setup ssh user@box`.", "bad_option")
    if dry_run:
        say(f"Would install this program on {host}, in ~/.autoresearch-mcp/venv, with the packages that it lacks.")
        return 0
    say(f"Installing on {host}. Where torch is missing there, this takes minutes.")
    try:
        findings = asyncio.run(set_up_host(host, python))
    except ComputeError as error:
        raise LabError(str(error), "not_installed") from error
    for text, hint in findings:
        say(f"- {text}." + (f" {hint}" if hint else ""))
    return int(any(hint for _, hint in findings))
