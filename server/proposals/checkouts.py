"""Lets work trees that have the champion's branch checked out follow a promotion, or warns their owner.

A ref that moves under a checked-out branch leaves the files behind, and git then shows the promotion as staged to be undone.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.git import Git

# The owner's work tree is checked out by the owner's settings, such as line endings.
_OWNERS_SETTINGS = {"GIT_CONFIG_GLOBAL": None, "GIT_CONFIG_NOSYSTEM": None}


@dataclass(frozen=True)
class Checkout:
    """A work tree of the lab's repository: the lab's own, or one of `git worktree add`."""

    root: Path
    directory: Path  # with its HEAD and index
    linked: bool

    @property
    def name(self) -> str:
        """Its name in warnings. Agents read those too, so it holds no path."""
        return f"the work tree {self.root.name}" if self.linked else "the lab's own work tree"

    @property
    def environment(self) -> dict[str, str | None]:
        """The variables by which git works here."""
        place = {"GIT_DIR": str(self.directory), "GIT_WORK_TREE": str(self.root), "GIT_INDEX_FILE": str(self.directory / "index")}
        return {**place, **_OWNERS_SETTINGS}


def follow(git: Git, branch: str, previous: str, commit: str) -> list[str]:
    """Bring work trees that have a branch checked out from the commit that it left to the one that it reached.

    Local changes are carried along. Where they are in the way, nothing there changes. Calling it again does no harm.

    Args:
        git: of the lab's repository.
        branch: the full name of a ref that has moved already.
        previous: where it was.
        commit: where it is.

    Returns:
        A warning for each work tree that could not follow.
    """
    return [
        f"For the owner: {checkout.name} has the branch {_short(branch)} checked out and could not follow it ({why}). Its files are "
        f"still those of {previous[:12]}, and a commit there would undo the promotion. To keep your changes, run "
        f"`git diff {previous[:12]} > mine.patch`; then `git reset --hard`."
        for checkout in _having(git, branch)
        if (why := _advance(git, checkout, previous, commit))
    ]


def behind(git: Git, branch: str) -> list[str]:
    """Return a warning for each work tree that has a branch checked out, and other content staged. Cheap where none has."""
    return [
        f"For the owner: {checkout.name} has the champion's branch {_short(branch)} checked out, with changes staged. A commit there would "
        "skip the gate, and may undo a promotion. `git status` shows the changes, `git reset --hard` drops them."
        for checkout in _having(git, branch)
        if _has_staged(git, checkout, branch)
    ]


def _having(git: Git, branch: str) -> Iterator[Checkout]:
    """Find the work trees that have a branch checked out, without starting git. What can't be read is passed over."""
    linked: list[Path] = []
    with contextlib.suppress(OSError):
        linked = sorted((git.directory / "worktrees").iterdir())
    for directory in (git.directory, *linked):
        try:
            if (directory / "HEAD").read_text(encoding="ascii").strip() != f"ref: {branch}":
                continue
            is_linked = directory != git.directory
            gitfile = Path((directory / "gitdir").read_text(encoding="utf-8").strip()) if is_linked else directory
            is_there = gitfile.exists()
        except (OSError, ValueError):
            continue
        if is_there:
            yield Checkout(gitfile.parent, directory, is_linked)


def _advance(git: Git, checkout: Checkout, previous: str, commit: str) -> str:
    """Move a work tree's index and files from one commit to another; return why that was not possible, or nothing."""
    try:
        git.run("update-index", "-q", "--refresh", env=checkout.environment)
        git.output("read-tree", "-m", "-u", previous, commit, env=checkout.environment)
    except LabError as error:
        return str(error).rstrip(".")
    return ""


def _has_staged(git: Git, checkout: Checkout, branch: str) -> bool:
    try:
        status, _, _ = git.run("diff-index", "--cached", "--quiet", branch, env=checkout.environment)
    except LabError:
        return False
    return status == 1


def _short(branch: str) -> str:
    return branch.removeprefix("refs/heads/")
