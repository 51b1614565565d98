"""Makes a lab: a git repository with the training file, the fixed files to read, settings, contracts and the client's configuration.

Promises: the lab is made beside its place and moved there when it is whole, so a failure leaves nothing behind. In an existing
repository's copy, files that are there already are kept.
"""

import argparse
import os
import shutil
from pathlib import Path

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands import lab_files
from autoresearch_mcp.server.commands.arguments import say
from autoresearch_mcp.server.commands.lab_files import MCP_CONFIG, TRAIN
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import SETTINGS, STATE, LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.secret import ensure
from autoresearch_mcp.trainer import sandbox

EXAMPLES = (
    "autoresearch-mcp init my-lab",
    "autoresearch-mcp init my-lab --from-repo ~/src/model",
    "autoresearch-mcp init big --profile h100",
)
_SCRIPT = (
    "warning: train.py never calls submit(), so the metric is the line `{metric}: NUMBER` that it prints itself: reported, not verified, and "
    'marked so everywhere. lab.toml says how it is run ([training] files, data, budget_s = {budget_s:g} wall seconds); [promotion] reported = "allow" '
    "lets the gate go by it"
)
_NEVER_SUBMITS = "warning: train.py never calls submit(), so no run of it can be scored; {folder}/client.py says what a lab expects of it"
_UNCONFINED = (
    'warning: this machine can\'t confine trainings (that takes Linux with Landlock), so lab.toml says [promotion] unsandboxed = "allow": '
    "results count although the code that made them could have read the answers"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("dir", metavar="DIR", type=Path, help="a new or empty directory")
    parser.add_argument(
        "--from-repo", metavar="REPO", type=Path, help="start from the last commit of this git repository, which has a train.py"
    )
    parser.add_argument("--profile", default="cpu", help="what is trained on what: cpu, or h100 for a GPU (default: cpu)")
    parser.add_argument("--budget", metavar="SECONDS", type=float, help="budget of one experiment (default: the profile's)")


def run(arguments: argparse.Namespace) -> int:
    """Make the lab, and say what to do next."""
    lines = create_lab(arguments.dir, arguments.from_repo, arguments.profile, arguments.budget)
    say(f"Made the lab {arguments.dir}", *(f"  {line}" for line in lines), "", "Next:")
    say(f"  cd {arguments.dir} && claude              # then: read orchestrator.md and start the campaign")
    say(f"  autoresearch-mcp install claude-desktop {arguments.dir}", f"  autoresearch-mcp watch {arguments.dir}")
    return 0


def create_lab(directory: Path, from_repo: Path | None = None, profile: str = "cpu", budget_s: float | None = None) -> list[str]:
    """Make a lab.

    Args:
        directory: a new or empty directory.
        from_repo: a git repository to start from, which is only read. The champion is its `train.py`, else the stock one.
        profile: what is trained on what.
        budget_s: of one experiment; the profile's by default.

    Returns:
        Lines that say what was made, and what was left out or kept.

    Raises:
        LabError: `already_a_lab`, `not_empty`, `no_train_file`, `has_state`, `in_the_way`, `not_written`, `bad_settings`, `bad_config`, and those of
            `Repo.clone`.
    """
    directory = directory.absolute()
    try:
        _check_free(directory)
        parents = _make_parents(directory)
        staging = (directory if directory.exists() else directory.parent) / f"{STATE}-new-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            staging.mkdir()
            lines = _populate(staging, directory.name, from_repo, profile, budget_s)
            _move_in(staging, directory)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            for parent in parents:
                parent.rmdir()
            raise
    except OSError as error:
        raise LabError(f"The lab could not be made in {directory}: {error.strerror}. Nothing was left there.", "not_written") from None
    return lines


def _check_free(directory: Path) -> None:
    if LabPaths(directory).settings.exists():
        raise LabError(f"{directory} is a lab already. Nothing was changed.", "already_a_lab")
    if directory.is_symlink() and not directory.exists():
        raise LabError(f"{directory} is a link to nowhere. Nothing was made.", "not_empty")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise LabError(f"{directory} is not empty. Choose a new directory; to start from a repository, add --from-repo PATH.", "not_empty")


def _make_parents(directory: Path) -> list[Path]:
    """Make the folders above, and return those that were missing, innermost first."""
    missing = [parent for parent in directory.parents if not parent.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _populate(root: Path, name: str, from_repo: Path | None, profile: str, budget_s: float | None) -> list[str]:
    """Make the lab in the empty directory `root`; return what to tell the user."""
    confined = sandbox.level() != "unsandboxed"
    lines: list[str] = []
    present: dict[str, bytes] = {}
    folder: str | None = "trainer"
    own = None
    if from_repo is None:
        repo = Repo.create(root)
    else:
        repo, lines = Repo.clone(from_repo.expanduser(), root)
        paths = repo.paths("HEAD")
        _check_repository(from_repo, repo, paths)
        own = lab_files.own_code(repo, "HEAD")
        folder = None if own.metric else lab_files.free_folder(paths)
    wanted = lab_files.starting_files(lab_files.settings_text(name, profile, budget_s, "refuse" if confined else "allow", own), folder)
    if from_repo is not None:
        present = {path: repo.read("HEAD", path) for path in paths if path in wanted}
        lines += [f"{path} kept as it is in {from_repo}" for path in present if present[path] != wanted[path] and path != MCP_CONFIG]
        wanted[MCP_CONFIG] = lab_files.mcp_config(present.get(MCP_CONFIG, b""))
    if not confined and SETTINGS not in present:
        lines.insert(0, _UNCONFINED)
    if own and own.metric and SETTINGS not in present:
        lines.append(_SCRIPT.format(metric=own.metric, budget_s=budget_s or settings.SCRIPT_BUDGET_S))
    elif own and not own.metric and not lab_files.submits(present[TRAIN]):
        lines.append(_NEVER_SUBMITS.format(folder=folder))
    new = {path: data for path, data in wanted.items() if present.get(path) != data and (path not in present or path == MCP_CONFIG)}
    repo.commit_files(new, "Set up the lab")
    _check_settings(root, from_repo if SETTINGS in present else None)
    lab_paths = LabPaths(root)
    lab_paths.state.mkdir()
    lab_paths.ignore.write_text("*\n", encoding="utf-8")
    ensure(lab_paths.secret)
    fixed = [f"{folder}/: the fixed files, to read"] if folder else []
    purposes = lab_files.PURPOSES
    return [*(f"{path}: {purposes[path]}" for path in new if path in purposes), *fixed, *lines]


def _check_repository(existing: Path, repo: Repo, paths: list[str]) -> None:
    """Refuse a repository that can't become a lab.

    Args:
        existing: the user's repository.
        repo: its copy.
        paths: all files of that.

    Raises:
        LabError: `no_train_file`, `has_state`, `in_the_way`.
    """
    if blocked := repo.blocked("HEAD", lab_files.PURPOSES):
        raise LabError(
            f"A lab needs a plain file {blocked[0]}, but {existing} has a link, a folder or a submodule in that place. Rename it there, "
            "commit, and try again. Nothing was made.",
            "in_the_way",
        )
    if TRAIN not in paths:
        have = ", ".join(path for path in paths if path.endswith(".py"))[:400] or "no Python file"
        raise LabError(
            f"{existing} has no {TRAIN} at its top, the file that a lab improves. It has: {have}. Nothing was made.", "no_train_file"
        )
    if any(path.split("/")[0] == STATE for path in paths):
        raise LabError(
            f"{existing} has {STATE} in git, where a lab keeps its own state. Take it out (`git rm -r --cached {STATE}`, then commit) and "
            "try again. Nothing was made.",
            "has_state",
        )


def _check_settings(root: Path, existing: Path | None) -> None:
    """Refuse settings that don't work; where they came with a repository, name it.

    Raises:
        LabError: `bad_settings`, `newer_lab`.
    """
    try:
        settings.load(root)
    except LabError as error:
        if existing is None:
            raise
        raise LabError(
            f"{existing} has a {SETTINGS} of its own, which does not work as a lab's settings: {error} Correct or rename it there, commit, "
            "and try again. Nothing was made.",
            error.code,
        ) from None


def _move_in(staging: Path, directory: Path) -> None:
    """Put the finished lab in its place, by one rename.

    Where the directory exists (it may be a mount, or the user's shell may stand in it), each entry moves by itself: the settings last,
    because they make it a lab.
    """
    if not directory.exists():
        staging.rename(directory)
        return
    moved: list[Path] = []
    try:
        for item in sorted(staging.iterdir(), key=lambda item: item.name == SETTINGS):
            moved.append(item.rename(directory / item.name))
        staging.rmdir()
    except BaseException:
        for item in moved:
            item.rename(staging / item.name)
        raise
