"""Holds the parts that commands share: the argument that names a lab, the search for it, and lines on stdout."""

import argparse
import getpass
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.untrusted import clean

if TYPE_CHECKING:
    from rich.table import Table

HOME = "AUTORESEARCH_LAB"
_WIDEST = 2_000  # columns of a table that no terminal cuts
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def add_lab(parser: argparse.ArgumentParser) -> None:
    """Add the optional argument DIR: the lab that a command is about."""
    parser.add_argument("dir", metavar="DIR", type=Path, nargs="?", help=f"the lab (default: ${HOME}, else the nearest lab upwards)")


def find_lab(given: Path | None) -> Path:
    """Return the lab that a command is about.

    Args:
        given: as on the command line; None for `$AUTORESEARCH_LAB`, else the nearest directory upwards with a `lab.toml`.

    Raises:
        LabError: `not_a_lab`.
    """
    if given is None and os.environ.get(HOME):
        given = Path(os.environ[HOME])
    if given is not None:
        return given.expanduser().absolute()
    if (directory := nearest_lab(Path.cwd())) is not None:
        return directory
    raise LabError(
        f"No lab here: neither {Path.cwd()} nor a directory above it has a lab.toml. Name one, or make it: `autoresearch-mcp init DIR`.",
        "not_a_lab",
    )


def existing_lab(given: Path | None) -> Path:
    """Return the lab that a command is about, which must be one.

    Raises:
        LabError: `not_a_lab`.
    """
    root = find_lab(given)
    if not is_lab(root):
        raise LabError(f"{root} is not a lab: it has no lab.toml.", "not_a_lab")
    return root


def nearest_lab(start: Path) -> Path | None:
    """Return the nearest directory with a `lab.toml`, from `start` upwards."""
    return next((directory for directory in (start, *start.parents) if is_lab(directory)), None)


def is_lab(directory: Path) -> bool:
    """Return whether a directory has a `lab.toml`."""
    return LabPaths(directory).settings.is_file()


def duration(text: str) -> float:
    """Return the seconds that a text such as `90s`, `30m`, `12h`, `2d` or `1w` means.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", text.strip())
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: give a number and s, m, h, d or w, such as 30d")
    return float(match[1]) * _SECONDS[match[2]]


def on_the_command_line(record: Callable[[str, str, str, str, str, str], None], action: str, subject: str) -> None:
    """Write down a change that the owner made on the command line.

    Args:
        record: `record_change` of a lab or ledger.
        action: the command.
        subject: the commit, experiment or name that it was about.
    """
    record(getpass.getuser(), "owner", "command line", socket.gethostname(), action, subject)


def say(*lines: str) -> None:
    """Print lines to stdout, without what agents' text could do to a terminal."""
    for line in lines:
        print(clean(line))  # noqa: T201


def show(table: "Table") -> None:
    """Print a table to stdout: within the terminal, or with each row whole on one line where something else reads it."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDEST)
    console.print(table)
