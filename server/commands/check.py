"""`autoresearch-mcp check`: trains a commit for a few seconds in the sandbox, and says what an agent would hit."""

import argparse
import asyncio
from collections.abc import Mapping
from pathlib import Path

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab
from autoresearch_mcp.server.commands.findings import show
from autoresearch_mcp.server.commands.printed import submits
from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.local.short_run import ShortRun, short_run
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.findings import Finding, findings_of, never_submits
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo

EXAMPLES = ("autoresearch-mcp check my-lab", "autoresearch-mcp check --commit 3f2a91c --seconds 30 my-lab")
SECONDS = 5.0
PATIENCE_S = 30.0  # for code that runs as it is and printed nothing in its seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--commit", default="champion", help="what is trained (default: the champion)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of training, at most (default: {SECONDS:g})")


def run(arguments: argparse.Namespace) -> int:
    """Train, and show every finding.

    Returns:
        1 where one is a fault.
    """
    if not 0 < arguments.seconds <= 3600:
        raise LabError("--seconds takes a number from 1 to 3600.", "bad_option")
    return show(examine(existing_lab(arguments.dir), arguments.commit, arguments.seconds))


def examine(root: Path, commit: str = "champion", seconds: float = SECONDS) -> list[Finding]:
    """Train a commit for a few seconds and return what an agent would hit.

    Raises:
        LabError: `unknown_commit`; `no_short_run` where nothing can be trained here; those of the settings.
    """
    settings = lab_settings.load(root)
    training = settings.training
    repo = Repo(root, training.editable)
    sha = repo.resolve(commit)
    code = {**(repo.other_files(sha, training.files) if training.files else {}), **repo.editable_files(sha)}
    if not settings.is_script and not submits(*(data for path, data in code.items() if path.endswith(".py"))):
        return [never_submits(training.file)]
    state = LabPaths(root).state
    state.mkdir(exist_ok=True)
    short = _short(settings, state, code, seconds)
    if settings.is_script and short.outcome == "going" and short.startup_s is None and seconds < PATIENCE_S:
        seconds = PATIENCE_S  # to import what it needs took all of the time
        short = _short(settings, state, code, seconds)
    return list(findings_of(short, settings, seconds))


def _short(settings: lab_settings.Settings, state: Path, code: Mapping[str, bytes], seconds: float) -> ShortRun:
    try:
        return asyncio.run(short_run(settings, state, code, seconds, most_s=60 + 3 * seconds))
    except ComputeError as error:
        raise LabError(str(error), "no_short_run") from None
