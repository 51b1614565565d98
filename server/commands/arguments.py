"""Holds the parts that commands share: the argument that names a lab, the search for it, and lines on stdout."""

import argparse
import os
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.untrusted import clean

HOME = "AUTORESEARCH_LAB"


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


def nearest_lab(start: Path) -> Path | None:
    """Return the nearest directory with a `lab.toml`, from `start` upwards."""
    return next((directory for directory in (start, *start.parents) if is_lab(directory)), None)


def is_lab(directory: Path) -> bool:
    """Return whether a directory has a `lab.toml`."""
    return LabPaths(directory).settings.is_file()


def say(*lines: str) -> None:
    """Print lines to stdout, without what agents' text could do to a terminal."""
    for line in lines:
        print(clean(line))  # noqa: T201
