"""`autoresearch-mcp secret`: the secret that draws a lab's held-out split, for labs that share one log."""

import argparse
from pathlib import Path

from autoresearch_mcp.server import secret
from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab, say
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_alive

EXAMPLES = (
    "autoresearch-mcp secret show my-lab",
    "autoresearch-mcp secret export my-lab.secret my-lab     # then copy the file to the other machine, and remove it here",
    "autoresearch-mcp secret import my-lab.secret my-lab     # there",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    action = actions.add_parser("show", help="print the secret's fingerprint: labs with one fingerprint measure on the same text")
    add_lab(action)
    action = actions.add_parser("export", help="write the secret into a new file that only you can read; who has it knows the split")
    action.add_argument("file", metavar="FILE", type=Path)
    add_lab(action)
    action = actions.add_parser("import", help="take over another lab's secret, so that the results of both can be compared")
    action.add_argument("file", metavar="FILE", type=Path)
    action.add_argument("--replace", action="store_true", help="also where results exist: later ones aren't compared with them")
    add_lab(action)


def run(arguments: argparse.Namespace) -> int:
    """Show, export or import the secret."""
    paths = LabPaths(existing_lab(arguments.dir))
    try:
        paths.state.mkdir(exist_ok=True)
        match arguments.action:
            case "show":
                say(f"fingerprint {secret.fingerprint(secret.ensure(paths.secret))}")
            case "export":
                _export(paths, arguments.file)
            case _:
                _import(paths, arguments.file, arguments.replace)
    except OSError as error:
        raise LabError(f"{error.filename} can't be written or read: {error.strerror}. Nothing was changed.", "not_written") from None
    return 0


def _export(paths: LabPaths, file: Path) -> None:
    if not secret.write(file.absolute(), secret.read(secret.ensure(paths.secret))):
        raise LabError(f"{file} exists already. Nothing was written; name a new file.", "not_written")
    say(f"Wrote the secret to {file}, readable by you alone. Keep it from agents: who has it knows what is held out.")


def _import(paths: LabPaths, file: Path, replace: bool) -> None:
    wanted, path = secret.read(file), paths.secret
    if path.exists() and secret.read(path) == wanted:
        say("The lab has this secret already. Nothing was changed.")
        return
    if runner_alive(paths.state):
        raise LabError("The lab's runner is at work. Wait until it has left, then import again. Nothing was changed.", "busy")
    if path.exists() and not replace and _has_results(paths):
        raise LabError(
            "The lab has results under a secret of its own, and later ones would not be compared with them. Add --replace if that is "
            "meant. Nothing was changed.",
            "has_results",
        )
    secret.write(path, wanted, replace=True)
    say(f"Imported: fingerprint {secret.fingerprint(path)}")


def _has_results(paths: LabPaths) -> bool:
    if not paths.ledger.exists():
        return False
    ledger = Ledger(paths.ledger)
    try:
        return bool(ledger.open_experiments(limit=1)) or bool(ledger.finished_after(0))
    finally:
        ledger.close()
