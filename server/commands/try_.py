"""`autoresearch-mcp try`: trains a work tree for a few seconds before it is proposed, without a score."""

import argparse
import contextlib
import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from autoresearch_mcp.server.commands.arguments import existing_lab
from autoresearch_mcp.server.commands.findings import show
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.findings import Finding
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.trying import MOST_S, MOST_WALL_S
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.git import obeying

EXAMPLES = ("autoresearch-mcp try", "autoresearch-mcp try my-lab-ada --seconds 10")
SECONDS = 5.0
_TOKEN = "AUTORESEARCH_TOKEN"  # noqa: S105 the variable's name
_LARGEST = 1 << 20  # bytes of a file that is read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        type=Path,
        default=Path(),
        help="a work tree of `checkout`, or a clone of a lab's /git (default: here)",
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of training, at most {MOST_S:g} (default: {SECONDS:g})")
    parser.add_argument("--lab", dest="dir", metavar="DIR", type=Path, help="the lab (default: that of the work tree)")


def run(arguments: argparse.Namespace) -> int:
    """Train, and show every finding.

    Returns:
        1 where one is a fault.
    """
    if not 0 < arguments.seconds <= MOST_S:
        raise LabError(f"--seconds takes a number up to {MOST_S:g}.", "bad_option")
    folder = arguments.folder.expanduser().absolute()
    home = Path(_git(folder, "rev-parse", "--path-format=absolute", "--git-common-dir")).parent
    if arguments.dir is not None or LabPaths(home).state.is_dir():  # a clone has the settings, and not the state
        root = existing_lab(arguments.dir or home)
        base, changes = changed(folder, "research")
        with contextlib.closing(Lab(root)) as lab:
            return show(lab.try_code(base, changes, arguments.seconds))
    base, changes = changed(folder, "origin/research")
    return show(_ask(_git(folder, "remote", "get-url", "origin"), base, changes, arguments.seconds))


def changed(folder: Path, champion: str) -> tuple[str, dict[str, str | None]]:
    """Return what a work tree's branch was made from, and the text of every file that differs, committed or not.

    Args:
        folder: the work tree.
        champion: the name that the champion's branch has there.

    Raises:
        LabError: `not_a_checkout`, `bad_encoding`.
    """
    top = Path(_git(folder, "rev-parse", "--show-toplevel"))
    base = _git(folder, "merge-base", "HEAD", champion)
    names = _git(top, "diff", "--name-only", "--no-renames", "-z", base) + _git(top, "ls-files", "-z", "--others", "--exclude-standard")
    changes: dict[str, str | None] = {}
    for name in filter(None, names.split("\0")):
        path = top / name
        if not path.is_symlink() and not path.exists():
            changes[name] = None
        elif path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST:
            raise LabError(f"{name} is no file of text that a proposal could have. Take it out.", "not_editable")
        else:
            try:
                changes[name] = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                raise LabError(f"{name} is not UTF-8 text.", "bad_encoding") from None
    return base, changes


def _ask(remote: str, base: str, changes: dict[str, str | None], seconds: float) -> list[Finding]:
    """Have it tried by the server whose /git a clone is of.

    Raises:
        LabError: `not_a_checkout`, `no_try` with the server's own words.
    """
    place = urlsplit(remote)
    if place.scheme not in ("http", "https") or not place.path.rstrip("/").endswith("/git"):
        raise LabError("This is no work tree of a lab, and no clone of a lab's /git. Name the lab: --lab DIR.", "not_a_checkout")
    host = place.hostname or ""
    url = urlunsplit((place.scheme, f"[{host}]" if ":" in host else host, "/try", "", ""))
    url = url if place.port is None else url.replace("/try", f":{place.port}/try")
    token = unquote(place.password or "") or os.environ.get(_TOKEN, "")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    body = json.dumps({"base": base, "changes": changes, "seconds": seconds}).encode()
    try:
        asked = urllib.request.Request(url, body, headers)  # noqa: S310 http or https, as checked
        with urllib.request.urlopen(asked, timeout=60 + 2 * MOST_WALL_S) as answer:  # noqa: S310
            return [Finding(**each) for each in json.load(answer)]
    except urllib.error.HTTPError as error:
        words = error.read(2000).decode("utf-8", "replace").strip()
        raise LabError(words or f"{url} answered {error.code}.", "no_try") from None
    except OSError as error:
        raise LabError(f"{url} can't be reached: {getattr(error, 'reason', error)}.", "no_try") from None


def _git(folder: Path, *command: str) -> str:
    """Return what git says in a folder.

    Raises:
        LabError: `not_a_checkout`, with git's own words.
    """
    try:
        done = subprocess.run(["git", *command], cwd=folder, capture_output=True, env={**os.environ, **obeying()})
    except OSError as error:
        raise LabError(f"git can't run in {folder}: {error.strerror}.", "not_a_checkout") from None
    if done.returncode:
        why = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise LabError(f"{folder} is no work tree to try: {why[-1] if why else 'git gave no reason'}", "not_a_checkout")
    return done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")
