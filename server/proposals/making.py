"""A lab's repository while it is made: from nothing or from a user's, with commits on all of its branches at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from autoresearch_mcp.server.proposals.clone import fetch_head, left_out
from autoresearch_mcp.server.proposals.objects import Entry, check_place
from autoresearch_mcp.server.proposals.repo import FIRST, Repo


class NewRepo(Repo):
    """A `Repo` that nobody works in yet. What it commits is on `main`, is the champion, and stands in the work tree."""

    @classmethod
    def create(cls, root: Path) -> Self:
        """Make a new, empty repository on branch `main` in the existing directory `root`; `commit_files` makes its first commit.

        Raises:
            LabError: `git_missing`, `disk_full`, `read_only`, `git_failed`.
        """
        repo = cls(root)
        repo._git.directory.mkdir()
        repo._git.output("init", "--quiet", "--template=", "--initial-branch=main", "--object-format=sha1")
        return repo

    @classmethod
    def clone(cls, existing: Path | str, root: Path) -> tuple[Self, list[str]]:
        """Make a new repository with the history of HEAD of another one.

        Args:
            existing: the user's repository, bare or not, which is only read; or a URL, as text.
            root: an existing, empty directory.

        Returns:
            The new repository, and warnings for the user.

        Raises:
            LabError: `not_a_repository`, `no_commits`, `not_trusted`, `not_fetched`, and those of `create`.
        """
        existing = existing.absolute() if isinstance(existing, Path) else existing
        repo = cls.create(root)
        head, warnings = fetch_head(repo._git, existing)
        repo._move("refs/heads/main", head)
        repo._move(repo.branch, head)
        repo._git.output("read-tree", "-m", "-u", "HEAD")
        return repo, [*warnings, *(left_out(existing) if isinstance(existing, Path) else [])]

    def commit_files(self, files: Mapping[str, bytes], message: str) -> str:
        """Add files to `main`, the champion and the work tree at once: how a lab is made. Not for proposals.

        Returns:
            The new commit.
        """
        head = self._git.line("for-each-ref", "--format=%(objectname)", "refs/heads/main")
        entries = self._objects.entries(head) if head else {}
        for path in files:
            check_place(entries, path)
        return self._commit_everywhere(self._objects.write_tree(entries, self._objects.store(files, {})), message)

    def _commit_everywhere(self, tree: str, message: str) -> str:
        """Commit a tree on `main`, and make it the champion, the lab's first source and the work tree."""
        head = self._git.line("for-each-ref", "--format=%(objectname)", "refs/heads/main")
        commit = self._objects.commit(tree, [head] if head else [], message, "autoresearch-mcp")
        self._move("refs/heads/main", commit)
        self._move(self.branch, commit)
        self._move(FIRST, commit)
        self._git.output("read-tree", "-m", "-u", *([head] if head else []), commit)
        return commit

    def include_submodule(self, path: str, source: Path) -> None:
        """Put the files of a submodule in its place, on `main`, the champion and the work tree at once. Not for proposals.

        Args:
            path: of the submodule.
            source: where it is checked out.

        Raises:
            LabError: its commit isn't there.
        """
        entries = self._objects.entries("HEAD")
        commit = entries[path].id
        fetch_head(self._git, source)
        tree = Entry("040000", "tree", self._git.line("rev-parse", "--verify", f"{commit}^{{tree}}"))
        self._commit_everywhere(self._objects.write_tree(entries, {path: tree}), f"Include the submodule {path}")
