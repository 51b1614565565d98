"""`autoresearch-mcp token`: who may call the lab over HTTP, as whom, and for how long."""

import argparse
import contextlib
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from autoresearch_mcp.server.commands.arguments import add_lab, duration, existing_lab, on_the_command_line, say, show
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.ledger.access import Token
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.roles import Role

EXAMPLES = (
    "autoresearch-mcp token create ada --role worker --expires 30d my-lab",
    "autoresearch-mcp token list my-lab",
    "autoresearch-mcp token rotate ada my-lab",
    "autoresearch-mcp token revoke ada my-lab",
)
NAME = r"[\w.:/+-]{1,64}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    action = actions.add_parser("create", help="make a token and print it, this once")
    action.add_argument("name", metavar="NAME", help="of its holder: the author of all that is done with it")
    action.add_argument("--role", choices=[role.value for role in Role], default="worker", help="what its holder may do (default: worker)")
    _add_expiry(action, "never")
    action = actions.add_parser("list", help="show whose tokens there are; the tokens themselves are kept nowhere")
    add_lab(action)
    action = actions.add_parser("rotate", help="revoke a holder's token and print a new one, with the same role")
    action.add_argument("name", metavar="NAME")
    _add_expiry(action, "as long as the one before was made for")
    action = actions.add_parser("revoke", help="make a holder's token open nothing, from the next request on")
    action.add_argument("name", metavar="NAME")
    add_lab(action)


def _add_expiry(action: argparse.ArgumentParser, default: str) -> None:
    action.add_argument("--expires", metavar="DURATION", type=duration, help=f"such as 12h or 30d (default: {default})")
    add_lab(action)


def run(arguments: argparse.Namespace) -> int:
    """Create, list, rotate or revoke."""
    with _ledger(existing_lab(arguments.dir)) as ledger:
        match arguments.action:
            case "list":
                _list(ledger)
            case "revoke":
                if not ledger.revoke_token(arguments.name):
                    raise LabError(f"{arguments.name} has no valid token. `token list` shows whose there are.", "unknown_token")
                on_the_command_line(ledger.record_change, "token revoke", arguments.name)
                say(f"Revoked. {arguments.name}'s token opens nothing from now on.")
            case _:
                _make(ledger, arguments)
    return 0


@contextlib.contextmanager
def _ledger(root: Path) -> Iterator[Ledger]:
    paths = LabPaths(root)
    paths.state.mkdir(exist_ok=True)
    with contextlib.closing(Ledger(paths.ledger)) as ledger:
        yield ledger


def _make(ledger: Ledger, arguments: argparse.Namespace) -> None:
    name, replace = arguments.name, arguments.action == "rotate"
    if not re.fullmatch(NAME, name):
        raise LabError(f"{name[:80]!r} is no name for a token: it takes letters, digits and _.:/+-, at most 64.", "bad_author")
    valid = {token.name: token for token in ledger.tokens().values() if token.valid}
    if replace and name not in valid:
        raise LabError(f"{name} has no valid token to replace. Make one with `token create`.", "unknown_token")
    before, seconds = valid[name] if replace else None, arguments.expires
    role = before.role if before else Role(arguments.role)
    if seconds is None and before and before.expires_at is not None:
        seconds = before.expires_at - before.created_at
    expires_at = None if seconds is None else time.time() + seconds
    secret = ledger.add_token(name, role, expires_at, replace)
    on_the_command_line(ledger.record_change, f"token {arguments.action}", f"{name} as {role}")
    until = "" if expires_at is None else f", until {_day(expires_at)} UTC"
    say(secret)
    say(
        f"This is {name}'s token, shown this once. It makes its holder {name}, a{'n' if role[0] in 'aeiou' else ''} {role}{until}. Its client sends it "
        "as the header `Authorization: Bearer TOKEN`. From now on the lab serves nobody over HTTP without a token."
    )


def _list(ledger: Ledger) -> None:
    tokens = ledger.tokens().values()
    if not tokens:
        say("No tokens. `autoresearch-mcp token create NAME --role ROLE` makes one.")
        return
    table = Table("name", "role", "made", "expires", "state", box=None)
    for token in tokens:
        table.add_row(token.name, token.role, _day(token.created_at), _day(token.expires_at), _state(token))
    show(table)


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked" if token.revoked_at != token.expires_at else "expired"
    return "valid" if token.valid else "expired"


def _day(at: float | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
