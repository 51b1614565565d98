"""Makes a lab: a git repository with the training file, the fixed files to read, settings, contracts and the client's configuration.

Promises: the lab is made beside its place and moved there when it is whole, so a failure leaves nothing behind. In an existing
repository's copy, files that are there already are kept.
"""

import argparse
import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from autoresearch_mcp.contracts import contract
from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands import install
from autoresearch_mcp.server.commands.arguments import say
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import SETTINGS, LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.untrusted import clean
from autoresearch_mcp.trainer import prepare, sandbox
from autoresearch_mcp.trainer.records import METRIC

EXAMPLES = (
    "autoresearch-mcp init my-lab",
    "autoresearch-mcp init my-lab --from-repo ~/src/model",
    "autoresearch-mcp init big --profile h100",
)
FIXED = "trainer"  # folder of the fixed files, for agents to read
AGENT = ".claude/agents/experiment-worker.md"
WORKER_TOOLS = (
    "get_status",
    "read_file",
    "propose_patch",
    "launch_training",
    "wait_for_experiments",
    "get_experiment",
    "read_log",
    "cancel_experiment",
    "query_experiments",
    "write_memory",
    "search_memory",
    "promote_commit",
    "plot_progress",
)
_WORKER_HEAD = """\
---
name: experiment-worker
description: Improves the lab's training script by experiment. Give it a direction and a name to sign with; start several at once.
tools: {tools}
---

"""


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
    """Make a lab in `directory`, which must be new or empty; the champion is `train.py` as installed, or as in `from_repo`.

    Returns:
        Lines that say what was made, and what was left out or kept.

    Raises:
        LabError: `already_a_lab`, `not_empty`, `no_train_file`, `not_written`, `bad_settings`, and those of `Repo.clone`.
    """
    directory = directory.absolute()
    try:
        _check_free(directory)
        made = _make_parents(directory)
        workshop = (directory if directory.exists() else directory.parent) / f".autoresearch-new-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            workshop.mkdir()
            lines = _furnish(workshop, directory.name, from_repo, profile, budget_s)
            _move_in(workshop, directory)
        except BaseException:
            shutil.rmtree(workshop, ignore_errors=True)
            for parent in made:
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
    """Makes the folders above; returns those that were missing, innermost first."""
    missing = [parent for parent in directory.parents if not parent.exists()]
    directory.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _furnish(root: Path, name: str, from_repo: Path | None, profile: str, budget_s: float | None) -> list[str]:
    confined = sandbox.level() != "unsandboxed"
    lines: list[str] = [] if confined else [_UNCONFINED]
    there: dict[str, bytes] = {}
    script = None
    if from_repo is None:
        repo = Repo.create(root)
    else:
        repo, left_out = Repo.clone(from_repo.expanduser(), root)
        lines += left_out
        script = _script(repo)
    folder = _fixed_folder(repo.paths("HEAD")) if from_repo is not None else FIXED
    wanted = _files(name, profile, budget_s, "refuse" if confined else "allow", script, folder)
    if from_repo is not None:
        there = {path: repo.read("HEAD", path) for path in repo.paths("HEAD") if path in wanted}
        if "train.py" not in there:
            have = ", ".join(path for path in repo.paths("HEAD") if path.endswith(".py"))[:400] or "no Python file"
            raise LabError(
                f"{from_repo} has no train.py at its top, the file that a lab improves. It has: {have}. Nothing was made.", "no_train_file"
            )
        lines += [f"{path} kept as it is in {from_repo}" for path in there if there[path] != wanted[path] and path != ".mcp.json"]
        if script is not None:
            lines.append(_SCRIPT.format(metric=script.metric, budget_s=budget_s or settings.SCRIPT_BUDGET_S))
        elif b"submit(" not in there["train.py"]:
            lines.append(
                f"warning: train.py never calls submit(), so no run of it can be scored; {folder}/client.py says what a lab expects of it"
            )
        wanted[".mcp.json"] = _server(there.get(".mcp.json", b"").decode("utf-8", "replace"))
    new = {path: data for path, data in wanted.items() if there.get(path) != data and (path not in there or path == ".mcp.json")}
    repo.commit_files(new, "Set up the lab")
    settings.load(root)
    lab_paths = LabPaths(root)
    lab_paths.state.mkdir()
    lab_paths.ignore.write_text("*\n", encoding="utf-8")
    fixed = [] if script else [f"{folder}/: the fixed files, to read"]
    return [*(f"{path}: {_PURPOSES[path]}" for path in new if path in _PURPOSES), *fixed, *lines]


def _fixed_folder(paths: Iterable[str]) -> str:
    """Return the folder for the fixed files: one that the user's repository doesn't have."""
    taken = {path.split("/")[0] for path in paths}
    names = itertools.chain((FIXED, "autoresearch_trainer"), (f"autoresearch_trainer_{n}" for n in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _script(repo: Repo) -> settings.Script | None:
    """How a train.py is run that never submits a model and prints its own metric, as the original and its forks do; None for another."""
    paths = repo.paths("HEAD")
    code = repo.read("HEAD", "train.py") if "train.py" in paths else b""
    if b"submit(" in code or METRIC.encode() not in code:
        return None
    others = [path for path in paths if path.endswith(".py") and path != "train.py" and not path.startswith(".")]
    files = dict.fromkeys(f"{path.split('/')[0]}/**" if "/" in path else path for path in others)
    uses_cache = any(b"autoresearch" in repo.read("HEAD", path) for path in ("train.py", *others))
    data = ORIGINALS_DATA if uses_cache and Path(ORIGINALS_DATA).expanduser().is_dir() else ""
    return settings.Script(METRIC, tuple(files), data)


ORIGINALS_DATA = "~/.cache/autoresearch"  # where the original's prepare.py puts its data
_SCRIPT = (
    "warning: train.py never calls submit(), so the metric is the line `{metric}: NUMBER` that it prints itself: reported, not verified, and "
    'marked so everywhere. lab.toml says how it is run ([training] files, data, budget_s = {budget_s:g} wall seconds); [promotion] reported = "allow" '
    "lets the gate go by it"
)


_UNCONFINED = (
    'warning: this machine can\'t confine trainings (that takes Linux with Landlock), so lab.toml says [promotion] unsandboxed = "allow": '
    "results count although the code that made them could have read the answers"
)
_PURPOSES = {
    "train.py": "the file that agents improve; branch `research` points to the best",
    SETTINGS: "the settings",
    "orchestrator.md": "the contract to start a campaign with",
    AGENT: "the worker, as a Claude Code agent",
    ".mcp.json": "the server, for Claude Code opened here",
}


def _files(
    name: str, profile: str, budget_s: float | None, unsandboxed: Literal["refuse", "allow"], script: settings.Script | None, folder: str
) -> dict[str, bytes]:
    tools = ", ".join(f"mcp__{install.NAME}__{tool}" for tool in WORKER_TOOLS)
    fixed = {name: path.read_bytes() for name, path in prepare.fixed_files().items() if not name.endswith("__init__.py")}
    return {
        "train.py": fixed.pop("train.py"),
        SETTINGS: settings.template(clean(name)[:80] or "lab", profile, budget_s, unsandboxed, script).encode(),
        "orchestrator.md": contract("orchestrator").encode(),
        AGENT: (_WORKER_HEAD.format(tools=tools) + contract("worker")).encode(),
        ".mcp.json": _server(""),
        **({} if script else {f"{folder}/{file}": data for file, data in sorted(fixed.items())}),
    }


def _server(old: str) -> bytes:
    try:
        return install.merged(old, "mcpServers", install.NAME, install.entry("."), Path()).encode()
    except ValueError as error:
        raise LabError(
            f"The repository's .mcp.json cannot take the lab's server: {error}. Correct it there. Nothing was made.", "bad_config"
        ) from None


def _move_in(workshop: Path, directory: Path) -> None:
    """Puts the finished lab in its place: by one rename, or, where the directory exists (it may be a mount, or the user's shell may
    stand in it), entry by entry with the settings last, as what makes it a lab."""
    if not directory.exists():
        workshop.rename(directory)
        return
    moved: list[Path] = []
    try:
        for item in sorted(workshop.iterdir(), key=lambda item: item.name == SETTINGS):
            moved.append(item.rename(directory / item.name))
        workshop.rmdir()
    except BaseException:
        for item in moved:
            item.rename(workshop / item.name)
        raise
