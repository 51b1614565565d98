"""`autoresearch-mcp repair`: the log and the ledger's sums, rebuilt where they are damaged."""

import argparse
import contextlib

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.lake.embedded.repair import repair
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import stop_runner

EXAMPLES = ("autoresearch-mcp repair my-lab",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Stop the runner, then check each table of the log, and the ledger's sums, and rebuild what is damaged."""
    root = find_lab(arguments.dir)
    settings.load(root)
    paths = LabPaths(root)
    if paths.runner_lock.exists():
        stop_runner(paths.state)  # trainings go on; the next runner adopts them
    with contextlib.closing(Ledger(paths.ledger)) as ledger:
        for each in repair(paths.lake, {"promotions": ledger.promotions()}):
            say(f"{each.table}: {each.rows} records" + (f", rebuilt; the old files are in {each.set_aside}" if each.fault else ", sound"))
            if each.fault:
                say(f"  {each.fault}")
        say(f"sums of the ledger: {'they were wrong, and were made anew' if ledger.recount() else 'sound'}")
    return 0
