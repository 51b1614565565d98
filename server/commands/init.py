"""Makes a lab: a git repository with the training file, the fixed files to read, settings, contracts and the client's configuration.

Promises: the lab is made beside its place and moved there when it is whole, so a failure leaves nothing behind. In an existing
repository's copy, files that are there already are kept.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import sys
from pathlib import Path

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands import asking, check, examples, lab_files, local_packages, submodules
from autoresearch_mcp.server.commands.arguments import say
from autoresearch_mcp.server.commands.candidates import TRAIN
from autoresearch_mcp.server.commands.findings import show
from autoresearch_mcp.server.commands.lab_files import MCP_CONFIG
from autoresearch_mcp.server.commands.printed import submits
from autoresearch_mcp.server.commands.survey import NOTHING_ASKED, Asked, survey
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import SETTINGS, STATE, LabPaths
from autoresearch_mcp.server.proposals.clone import is_url
from autoresearch_mcp.server.proposals.making import NewRepo
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.secret import ensure
from autoresearch_mcp.trainer import sandbox

EXAMPLES = (
    "autoresearch-mcp init my-lab",
    'autoresearch-mcp init my-lab --from-repo ~/src/model --entry "scripts/train.py --epochs 1" --metric val_loss',
    "autoresearch-mcp init digits --example images",
    "autoresearch-mcp init big --profile h100",
)
_SCRIPT = (
    "warning: {path} never calls submit(), so the metric is {metric}, as it prints it itself: reported, not verified, and "
    'marked so everywhere. lab.toml says how it is run ([training] files, data, budget_s = {budget_s:g} wall seconds); [promotion] reported = "allow" '
    "lets the gate go by it"
)
_NEVER_SUBMITS = (
    "warning: {path} never calls submit(), so no run of it can be scored: name the metric that it prints with --metric, or see in "
    "{folder}/client.py what a lab expects of it"
)
_UNCONFINED = (
    'warning: this machine can\'t confine trainings (that takes Linux with Landlock), so lab.toml says [promotion] unsandboxed = "allow": '
    "results count although the code that made them could have read the answers"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("dir", metavar="DIR", type=Path, help="a new or empty directory")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--from-repo", metavar="REPO", help="start from the last commit of this git repository: a path, or a URL")
    source.add_argument(
        "--example", choices=examples.EXAMPLES, help="start from a small lab with a metric of its own, verified; its data goes to DIR-data"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--entry", default="", help="with --from-repo: the file that trains, with its arguments (default: looked for)")
    which.add_argument("--module", default="", help="with --from-repo: the module that trains, as for `python -m`, with its arguments")
    parser.add_argument(
        "--editable", metavar="GLOB", nargs="+", default=[], help="what proposals may touch (default: the file that trains)"
    )
    parser.add_argument("--metric", default="", help="the metric that the code prints itself, which makes it reported, not verified")
    parser.add_argument("--goal", choices=("min", "max"), help="whether a lower or a higher metric is better (default: min)")
    parser.add_argument("--submodules", action="store_true", help="with --from-repo: copy the files of its submodules into the lab")
    parser.add_argument("--yes", action="store_true", help="ask nothing: take the likeliest")
    parser.add_argument(
        "--profile",
        default="cpu",
        help="what is trained on what: cpu, gpu for a card of 8 GB or more, mps for Apple's, or h100 (default: cpu)",
    )
    parser.add_argument("--budget", metavar="SECONDS", type=float, help="budget of one experiment (default: the profile's)")


def run(arguments: argparse.Namespace) -> int:
    """Make the lab, and say what to do next."""
    asks = sys.stdin.isatty() and not arguments.yes
    _check_options(arguments)
    asked = Asked(
        arguments.entry,
        arguments.module,
        arguments.editable,
        arguments.metric,
        asking.candidate if asks else None,
        arguments.goal,
        asking.goal if asks else (lambda _: "max") if arguments.yes else None,
        asking.metric if asks else None,
        (lambda _: True) if arguments.submodules else asking.submodules if asks else None,
        asking.arguments if asks else None,
    )
    lines = create_lab(arguments.dir, arguments.from_repo, arguments.profile, arguments.budget, asked, arguments.example)
    say(f"Made the lab {arguments.dir}", *(f"  {line}" for line in lines), "", "Next:")
    say(f"  cd {arguments.dir} && claude              # then: read orchestrator.md and start the campaign")
    say(f"  autoresearch-mcp install claude-desktop {arguments.dir}", f"  autoresearch-mcp watch {arguments.dir}")
    if not (loaded := settings.load(arguments.dir)).rents and not loaded.is_script and loaded.compute.backend == "local":
        local_packages.offer(arguments.dir, asks)
    if arguments.from_repo is not None:
        say(f"  autoresearch-mcp check {arguments.dir}           # trains it for a few seconds: what would an agent hit?")
        if asks and asking.yes("Do that now?"):
            show(check.examine(arguments.dir.absolute()))
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuse options that would say nothing.

    Raises:
        LabError: `bad_option`.
    """
    own = [name for name in ("entry", "module", "editable", "metric", "goal", "submodules") if getattr(arguments, name)]
    if own and arguments.from_repo is None:
        raise LabError(f"--{own[0]} says what a repository's code is: name that with --from-repo. Nothing was made.", "bad_option")
    for name in ("entry", "module"):
        try:
            words = shlex.split(getattr(arguments, name))
        except ValueError as error:
            raise LabError(f"--{name} can't be read: {error}. Nothing was made.", "bad_option") from None
        if getattr(arguments, name) and not words:
            raise LabError(f"--{name} is empty. Nothing was made.", "bad_option")


def create_lab(
    directory: Path,
    from_repo: Path | str | None = None,
    profile: str = "cpu",
    budget_s: float | None = None,
    asked: Asked = NOTHING_ASKED,
    example: str | None = None,
) -> list[str]:
    """Make a lab.

    Args:
        directory: a new or empty directory.
        from_repo: a git repository to start from, which is only read: a path, or a URL. The champion is its last commit, else the stock file.
        profile: what is trained on what.
        budget_s: of one experiment; the profile's by default.
        asked: what the owner says of the repository's code.
        example: a name in `examples.EXAMPLES` to start from.

    Returns:
        Lines that say what was made, and what was left out or kept.

    Raises:
        LabError: `already_a_lab`, `not_empty`, `no_train_file`, `no_such_path`, `has_state`, `in_the_way`, `not_written`, `bad_settings`,
            `bad_config`, `missing_package`, and those of `NewRepo.clone`.
    """
    directory = directory.absolute()
    source = from_repo if from_repo is None or is_url(str(from_repo)) else Path(from_repo).expanduser()
    try:
        _check_free(directory)
        parents = _make_parents(directory)
        staging = (directory if directory.exists() else directory.parent) / f"{STATE}-new-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            staging.mkdir()
            with examples.begun(example, directory) as start:
                lines = _populate(staging, directory.name, source, profile, budget_s, asked, start)
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


def _populate(
    root: Path,
    name: str,
    source: Path | str | None,
    profile: str,
    budget_s: float | None,
    asked: Asked,
    start: examples.Start | None = None,
) -> list[str]:
    """Make the lab in the empty directory `root`; return what to tell the user."""
    confined = sandbox.level() != "unsandboxed"
    lines: list[str] = []
    present: dict[str, bytes] = {}
    folder: str | None = "trainer"
    own, path = None, TRAIN
    if source is None:
        repo = NewRepo.create(root)
        if start:
            own, folder, budget_s = start.own, None, budget_s or examples.BUDGET_S
            lines.append(f"{start.own.data} and {start.own.hidden}: what trainings read, and the answers that none can read")
    else:
        repo, lines = NewRepo.clone(source, root)
        lines += submodules.include(repo, source, asked.include_submodules)
        paths = repo.paths("HEAD")
        _check_repository(source, repo, paths)
        if SETTINGS not in paths:
            surveyed = survey(repo, "HEAD", asked, str(source))
            own, path = surveyed.own, surveyed.path
            lines += surveyed.lines
        reports = bool(own.metric) if own else _reports(root)
        folder = None if reports else lab_files.free_folder(paths)
    wanted = lab_files.starting_files(lab_files.settings_text(name, profile, budget_s, "refuse" if confined else "allow", own), folder)
    if start:
        wanted[TRAIN] = start.train
    if source is not None:
        del wanted[TRAIN]
        present = {path: repo.read("HEAD", path) for path in paths if path in wanted}
        lines += [f"{path} kept as it is in {source}" for path in present if present[path] != wanted[path] and path != MCP_CONFIG]
        wanted[MCP_CONFIG] = lab_files.mcp_config(present.get(MCP_CONFIG, b""))
    if not confined and SETTINGS not in present:
        lines.insert(0, _UNCONFINED)
    if own and own.metric and not own.hidden:
        lines.append(_SCRIPT.format(path=path, metric=own.metric, budget_s=budget_s or settings.SCRIPT_BUDGET_S))
    elif own and not own.metric and not submits(repo.read("HEAD", path)):
        lines.append(_NEVER_SUBMITS.format(path=path, folder=folder))
    new = {path: data for path, data in wanted.items() if present.get(path) != data and (path not in present or path == MCP_CONFIG)}
    repo.commit_files(new, "Set up the lab")
    _check_settings(root, source if SETTINGS in present else None)
    lines += repo.owners.unmatched("HEAD", settings.load(root).training.files)
    lab_paths = LabPaths(root)
    lab_paths.state.mkdir()
    lab_paths.ignore.write_text("*\n", encoding="utf-8")
    ensure(lab_paths.secret)
    fixed = [f"{folder}/: the fixed files, to read"] if folder else []
    purposes = lab_files.PURPOSES
    return [*(f"{path}: {purposes[path]}" for path in new if path in purposes), *fixed, *lines]


def _reports(root: Path) -> bool:
    """Return whether a repository's own lab.toml is for code that prints its metric itself."""
    with contextlib.suppress(LabError):
        return settings.load(root).is_script
    return False


def _check_repository(existing: Path | str, repo: Repo, paths: list[str]) -> None:
    """Refuse a repository that can't become a lab.

    Args:
        existing: the user's repository.
        repo: its copy.
        paths: all files of that.

    Raises:
        LabError: `has_state`, `in_the_way`.
    """
    if blocked := repo.blocked("HEAD", lab_files.PURPOSES):
        raise LabError(
            f"A lab needs a plain file {blocked[0]}, but {existing} has a link, a folder or a submodule in that place. Rename it there, "
            "commit, and try again. Nothing was made.",
            "in_the_way",
        )
    if any(path.split("/")[0] == STATE for path in paths):
        raise LabError(
            f"{existing} has {STATE} in git, where a lab keeps its own state. Take it out (`git rm -r --cached {STATE}`, then commit) and "
            "try again. Nothing was made.",
            "has_state",
        )


def _check_settings(root: Path, existing: Path | str | None) -> None:
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
