"""git for the lab: proposals become commits straight in the object store, and the champion moves by compare-and-swap.

Promises: any number of threads and processes may use one lab at once; objects and refs are fsynced before a call returns; no hook,
filter or setting of the user, nor a GIT_* variable of the caller, changes what is stored. Once the lab is made, the user's work tree,
index and HEAD stay as they are, but where the champion's branch is checked out: see `checkouts`. Nothing here imports git before the
first call.
"""

import contextlib
import difflib
import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals import checkouts, fingerprint, source
from autoresearch_mcp.server.proposals.branches import Branches
from autoresearch_mcp.server.proposals.drafts import Conflict, DiffStat, Draft, Drafts
from autoresearch_mcp.server.proposals.git import Git
from autoresearch_mcp.server.proposals.message import identity
from autoresearch_mcp.server.proposals.objects import Objects, is_blocked, sync_folder
from autoresearch_mcp.server.proposals.orders import CarryOut, Order
from autoresearch_mcp.server.proposals.owners import Owners
from autoresearch_mcp.server.proposals.patch import Change

__all__ = ["Conflict", "DiffStat", "Draft", "LogEntry", "Repo"]

PROPOSALS = "refs/autoresearch/proposals"
FIRST = "refs/autoresearch/first"  # the lab's first source, beyond which growth counts
TELLING = 12  # characters of an id by which a commit is known for good, as answers give it; fewer may name another one too, later
_KNOWN = 4096  # ids


@dataclass(frozen=True)
class LogEntry:
    """A commit of the champion's branch."""

    commit: str
    time: float
    author: str
    subject: str


class Repo:
    """The lab's repository. Thread-safe.

    Args:
        root: the lab's directory, with `.git` in it.
        editable: the paths that proposals may touch: exact ones, or `dir/**`.
        branch: the branch that points to the champion.
        judges_imports: returns whether a module that nobody can find is a fault of a proposal.
        carry_out: drafts proposals in place of this process.

    Attributes:
        branches: those of agents that work in files.
        owners: what the owner commits by hand.

    Raises:
        LabError: from every method, those of `Git.output`.
    """

    def __init__(
        self,
        root: Path,
        editable: Sequence[str] = ("train.py",),
        branch: str = "research",
        judges_imports: Callable[[], bool] = lambda: True,
        carry_out: CarryOut | None = None,
    ) -> None:
        self.root = root.absolute()
        self.editable = Editable(editable)
        self.branch = f"refs/heads/{branch}"
        self._git = Git(self.root)
        self._objects = Objects(self._git)
        self._drafts = Drafts(self._git, self._objects, self.editable, self.first, judges_imports)
        self._judges_imports = judges_imports
        self._carry_out = carry_out
        self.owners = Owners(self._git, self.branch)
        self.branches = Branches(self._git, self._objects, self.editable)
        self._fingerprints: dict[str, str] = {}  # of the few commits that proposals start from
        self._canonicals: dict[str, str] = {}
        self._here = threading.local()
        self._known = functools.lru_cache(_KNOWN)(self._found)  # git takes two processes to tell

    def first(self) -> str | None:
        """Return the commit with the lab's first source, or None where nobody has named it yet."""
        return self._git.ref(FIRST) or None

    def name_first(self, commit: str) -> None:
        """Let growth count beyond this commit, in a lab of a version that didn't count it."""
        self._move(FIRST, commit)

    def champion(self) -> str:
        """Return the full id of the commit that the champion's branch points to.

        Raises:
            LabError: `no_champion`, `not_a_lab`.
        """
        seen: str | None = getattr(self._here, "champion", None)
        if seen:
            return seen
        commit = self._git.ref(self.branch)
        if not commit:
            name = self.branch.removeprefix("refs/heads/")
            raise LabError(f"The branch {name} of {self.root} is missing. Restore it: `git branch {name} COMMIT`.", "no_champion")
        if seen is not None:
            self._here.champion = commit
        return commit

    @contextlib.contextmanager
    def steady(self) -> Iterator[None]:
        """Have this thread see one champion while a block runs: an answer asks for it a dozen times."""
        if getattr(self._here, "champion", None) is not None:
            yield
            return
        self._here.champion = ""  # it is not read yet
        try:
            yield
        finally:
            self._here.champion = None

    def resolve(self, text: str) -> str:
        """Return the full id of the commit that a text names.

        Args:
            text: `champion`, a full id, or at least 7 of its first characters.

        Raises:
            LabError: `unknown_commit`.
        """
        text = text.strip().lower()
        if text == "champion":
            return self.champion()
        if not re.fullmatch(r"[0-9a-f]{7,64}", text):
            raise LabError(
                f"{text[:80]!r} is not a commit. Give 'champion', a commit's full id, or at least 7 characters of it.", "unknown_commit"
            )
        return self._known(text) if len(text) >= TELLING else self._found(text)

    def _found(self, text: str) -> str:
        ids = [text] if len(text) >= 40 else self._git.output("rev-parse", f"--disambiguate={text}").decode().split()
        checked = self._git.output("cat-file", "--batch-check", stdin="".join(f"{id}\n" for id in ids).encode()).decode().splitlines()
        commits = [line.split()[0] for line in checked if line.split()[1] == "commit"]
        if len(commits) != 1:
            fault = f"names {len(commits)} commits: {', '.join(commits[:5])}" if commits else "is not a commit of this lab"
            raise LabError(f"{text} {fault}. Commits are listed by query_experiments and get_status.", "unknown_commit")
        return commits[0]

    def paths(self, commit: str) -> list[str]:
        """Return all files at a commit."""
        return [path.encode("utf-8", "replace").decode() for path, entry in self._objects.entries(commit).items() if entry.kind != "tree"]

    def sizes(self, commit: str) -> dict[str, int]:
        """Return the bytes of each file at a commit, by path."""
        return self._objects.sizes(commit)

    def submodules(self, commit: str) -> list[str]:
        """Return the paths at a commit that are submodules, whose files the repository doesn't have."""
        return [path for path, entry in self._objects.entries(commit).items() if entry.kind == "commit"]

    def matching(self, commit: str, patterns: Editable) -> dict[str, bytes]:
        """Return the content of all files at a commit that patterns name, by path."""
        return self._objects.read_all({path: entry for path, entry in self._objects.entries(commit).items() if path in patterns})

    def blocked(self, commit: str, paths: Iterable[str]) -> list[str]:
        """Return those paths that can't be files at a commit, because a link, a folder or a submodule is in the way."""
        entries = self._objects.entries(commit)
        return [path for path in paths if is_blocked(entries, path)]

    def read(self, commit: str, path: str) -> bytes:
        """Return the content of a file at a commit.

        Raises:
            LabError: `no_such_file`, with the names most like it.
        """
        entries = self._objects.entries(commit)
        entry = entries.get(path)
        if entry is None or not entry.is_file:
            like = difflib.get_close_matches(
                path[:200], [name for name, other in entries.items() if other.is_file][:5_000], n=3, cutoff=0.4
            )
            hint = f" Did you mean {', '.join(like)}?" if like else ""
            raise LabError(f"There is no file {path[:200]!r} at commit {commit[:12]}.{hint}", "no_such_file")
        return self._objects.read(entry)

    def fingerprint(self, commit: str) -> str:
        """Return a hash of the editable files at a commit, equal for code that differs in comments and layout only."""
        if commit not in self._fingerprints:
            self._fingerprints[commit] = source.fingerprint(self.editable_files(commit))
        return self._fingerprints[commit]

    def canonical(self, commit: str) -> str:
        """Return the hash that a commit shares with its near-copies. See `proposals.fingerprint`."""
        if commit not in self._canonicals:
            self._canonicals[commit] = fingerprint.canonical(self.editable_files(commit))
        return self._canonicals[commit]

    def editable_files(self, commit: str) -> dict[str, bytes]:
        """Return the editable files at a commit, by path: what a training runs."""
        return self._drafts.editable_files(self._objects.entries(commit))

    def other_files(self, commit: str, patterns: Sequence[str]) -> dict[str, bytes]:
        """Return the files at a commit that these patterns name and that are not editable, by path, and those that links stand for."""
        return self._objects.read_all(self._objects.others(self._objects.entries(commit), Editable(patterns), self.editable))

    def idle_links(self, commit: str) -> dict[str, str]:
        """Return the links at a commit that lead out of the repository, or nowhere, with where: a run doesn't have what they stand for."""
        return self._objects.through_links(self._objects.entries(commit))[1]

    def check(self, commit: str, path: str) -> None:
        """Refuse a commit whose file `path` could not run, such as one that was made by hand. Other files are the owner's affair.

        Raises:
            LabError: those of `source.check`.
        """
        self._drafts.check(commit, path)

    def merge_base(self, one: str, other: str) -> str:
        """Return the latest commit that both have in their history.

        Raises:
            LabError: `unrelated`.
        """
        fork = self._git.line("merge-base", one, other, allow=(0, 1))
        if not fork:
            raise LabError(
                f"{one[:12]} and {other[:12]} have no history in common, so the change cannot be moved. Propose it anew.", "unrelated"
            )
        return fork

    def is_ancestor(self, commit: str, of: str) -> bool:
        """Return whether `commit` is `of` or in its history."""
        return self._git.line("merge-base", commit, of, allow=(0, 1)) == commit

    def diff(self, base: str, commit: str) -> str:
        """Return the unified diff from one commit to another; a binary file is one line of it."""
        data = self._git.output("diff-tree", "-p", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-color", base, commit)
        return data.decode("utf-8", "replace")

    def stat(self, base: str, commit: str) -> DiffStat:
        """Return how much changes from one commit to another."""
        return self._drafts.stat(base, commit)

    def log(self, limit: int = 50) -> list[LogEntry]:
        """Return the latest commits of the champion's branch, newest first."""
        data = self._git.output("log", "-z", "--first-parent", f"--max-count={limit}", "--format=%H%x1f%at%x1f%an%x1f%s", self.champion())
        fields = (line.split("\x1f", 3) for line in data.decode("utf-8", "replace").rstrip("\0").split("\0"))
        return [LogEntry(commit, float(at), author, subject) for commit, at, author, subject in fields]

    def build(
        self,
        base: str,
        message: str,
        author: str,
        *,
        diff: str | None = None,
        edits: Sequence[Mapping[str, str]] | None = None,
        files: Mapping[str, str | None] | None = None,
    ) -> Draft:
        """Commit a change on `base`. The change is given in exactly one form.

        Args:
            base: a commit's full id.
            message: the hypothesis.
            author: signs the commit.
            diff: a unified diff.
            edits: search/replace edits.
            files: whole new texts by path; None deletes the file.

        Raises:
            LabError: those of `patch.apply`, `source.check`, `source.encode` and `growth.check`, and `no_change`.
        """
        if self._carry_out is None:
            return self._drafts.build(base, message, author, Change(diff, edits, files))
        change = {"diff": diff, "edits": edits and [{**each} for each in edits], "files": files and {**files}}
        draft = self._elsewhere(self._carry_out, "build", base=base, message=message, author=author, **change)
        assert isinstance(draft, Draft)
        return draft

    def rebase(self, commit: str, onto: str, message: str, author: str, fork: str | None = None) -> Draft | Conflict:
        """Commit on `onto` what `commit` changed since `fork`, merged file by file.

        Args:
            commit: with the change.
            onto: where it goes.
            message: of the new commit.
            author: signs it.
            fork: from where on changes count; by default where `commit` left the line of `onto`.

        Raises:
            LabError: `no_change` where `onto` has it already; `unrelated`; those of `source.check` and `growth.check`.
        """
        fork = fork or self.merge_base(commit, onto)
        if self._carry_out is None:
            return self._drafts.rebase(commit, fork, onto, message, author)
        return self._elsewhere(self._carry_out, "rebase", commit=commit, onto=onto, message=message, author=author, fork=fork)

    def _elsewhere(self, carry_out: CarryOut, method: Literal["build", "rebase"], **given: Any) -> Draft | Conflict:
        drafted = carry_out(Order(str(self.root), tuple(self.editable.patterns), self._judges_imports(), method, given))
        if isinstance(drafted, Draft):
            self._drafts.know(drafted)
        return drafted

    def transplant(self, commit: str, onto: str, message: str, author: str) -> str:
        """Commit the editable files of `commit` on `onto`, whatever `onto` has there, and return the new commit's full id."""
        return self._drafts.transplant(commit, onto, message, author)

    def publish(self, branch: str, base: str, steps: Sequence[tuple[str, str, str]]) -> list[str]:
        """Make a branch with one commit a step on `base`. No work tree is touched.

        Args:
            branch: its name, which must be new.
            base: the commit that it starts from.
            steps: the commit whose files a step has, its message, and its author. One that changes nothing is left out.

        Returns:
            The new commits, the oldest first.

        Raises:
            LabError: `bad_branch`, and git's own.
        """
        ref = f"refs/heads/{branch}"
        if not re.fullmatch(r"[\w./-]{1,100}", branch) or branch.startswith("-") or self._git.run("check-ref-format", ref)[0]:
            raise LabError(f"{branch[:100]!r} is no name for a branch.", "bad_branch")
        if self._git.line("for-each-ref", ref):
            raise LabError(f"There is a branch {branch} already. Give another name, or delete it: git branch -D {branch}.", "bad_branch")
        commits, last = list[str](), base
        for commit, message, author in steps:
            tree = self._git.line("rev-parse", f"{commit}^{{tree}}")
            if tree == self._git.line("rev-parse", f"{last}^{{tree}}"):
                continue
            last = self._objects.commit(tree, [last], message, author)
            commits.append(last)
        self._move(ref, last)
        return commits

    def keep(self, commit: str) -> None:
        """Hold a proposal's commit by a ref, so that git never collects it. Calling it again does no harm."""
        self._move(f"{PROPOSALS}/{commit}", commit)

    def advance(self, expected: str, new: str) -> list[str]:
        """Move the champion from one commit to another, or not at all.

        Args:
            expected: the full id of the commit where the champion is now.
            new: the full id of the commit where it goes.

        Returns:
            Warnings for the lab's owner: see `follow`.

        Raises:
            LabError: `champion_moved` where it is not at `expected`.
        """
        try:
            self._move(self.branch, new, expected)
        except LabError:
            if (now := self.champion()) != expected:
                raise LabError(
                    f"The champion moved meanwhile: it is {now[:12]}, not {expected[:12]}. Nothing was changed.", "champion_moved"
                ) from None
            raise
        return self.follow(expected, new)

    def follow(self, previous: str, champion: str) -> list[str]:
        """Bring work trees that have the champion's branch checked out to the new champion, where no change of the owner's is in the way.

        Returns:
            A warning for each work tree that stays behind.
        """
        return checkouts.follow(self._git, self.branch, previous, champion)

    def behind(self) -> list[str]:
        """Return a warning for each work tree that has the champion's branch checked out and other content staged."""
        return checkouts.behind(self._git, self.branch)

    def _move(self, ref: str, new: str, expected: str | None = None) -> None:
        env = identity("autoresearch-mcp")
        self._git.output("update-ref", "-m", "autoresearch-mcp", ref, new, *([expected] if expected else []), env=env)
        sync_folder((self._git.directory / ref).parent)
