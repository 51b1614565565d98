"""`autoresearch-mcp changes`: every change that the lab acknowledged, with who made it, how, and from where."""

import argparse
import contextlib
import dataclasses
import json
import time
from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Column, Table

from autoresearch_mcp.server.commands.arguments import add_lab, duration, existing_lab, say, show
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.untrusted import clean

EXAMPLES = ("autoresearch-mcp changes my-lab", "autoresearch-mcp changes --by ada --since 2d --json my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--by", metavar="NAME", help="only what this one changed")
    parser.add_argument("--since", metavar="DURATION", type=duration, help="only the last, such as 30m, 12h or 2d")
    parser.add_argument("--limit", metavar="N", type=int, default=100, help="the newest so many (default: 100)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show them, the newest first."""
    ledger_file = LabPaths(existing_lab(arguments.dir)).ledger
    if not ledger_file.exists():
        say("Nothing was changed yet.")
        return 0
    since = 0.0 if arguments.since is None else time.time() - arguments.since
    with contextlib.closing(Ledger(ledger_file)) as ledger:
        changes = ledger.recorded_changes(arguments.by, since, max(arguments.limit, 1))
    if arguments.json:
        say(*(json.dumps(dataclasses.asdict(change)) for change in changes))
        return 0
    table = Table(Column("at", no_wrap=True), "who", "role", "how", "from", "what", "on", box=None)
    for change in changes:
        at = datetime.fromtimestamp(change.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        cells = (change.who, change.role, change.way, change.origin, change.action, change.subject)
        table.add_row(at, *(escape(clean(cell)) for cell in cells))
    show(table)
    return 0
