"""Agents' own branches of the lab's repository: work trees to edit in, and what a branch changed, as a change to propose.

Promises: of a branch, only the content of regular editable files counts. Its history, authors, hooks, filters, links and submodules are
neither trusted nor kept, and a large file is refused before it is read. Gives up: a branch can't change the modes of files.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals import source
from autoresearch_mcp.server.proposals.git import Git, failure
from autoresearch_mcp.server.proposals.message import identity
from autoresearch_mcp.server.proposals.objects import Entry, Objects

FOLDER = "agents"  # of all agents' branches
LONGEST = 1_000  # commits between a branch's end and the proposal that it was made from
_NAME = re.compile(rf"{FOLDER}(/[A-Za-z0-9_+][A-Za-z0-9_.+-]{{0,63}}){{2,4}}")
MOST_FOLDERS = 300  # that a branch changes
_NOTHING = "000000"  # the mode of a file that isn't there
_TREE = "040000"
_EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # the id of a folder without files
_SHOWN = 8  # paths in a refusal
# In a work tree git finds everything by itself
_OWN_PLACE: dict[str, str | None] = dict.fromkeys(
    ("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_SHALLOW_FILE", "GIT_NAMESPACE")
)


def is_name(name: str) -> bool:
    """Return whether this may be the name of an agent's branch, such as `agents/ada/pointer`."""
    return bool(_NAME.fullmatch(name)) and not any(part.endswith((".", ".lock")) or ".." in part for part in name.split("/"))


def folder_of(author: str) -> str:
    """Return the name of the folder below `agents/` that holds an author's branches."""
    return re.sub(r"\.\.+", ".", re.sub(r"[^A-Za-z0-9_.+-]+", "-", author)).strip("-.").removesuffix(".lock") or "agent"


class Branches:
    """The branches below `agents/`, one folder for each agent.

    Args:
        git: of the lab's repository.
        objects: its object store.
        editable: the paths that proposals may touch.
    """

    def __init__(self, git: Git, objects: Objects, editable: Editable) -> None:
        self._git = git
        self._objects = objects
        self._editable = editable

    def tip(self, name: str) -> str:
        """Return the commit that a branch points to now.

        Args:
            name: such as `agents/ada/pointer`.

        Raises:
            LabError: `unknown_ref`, with the branches that there are.
        """
        if is_name(name):
            commit = self._git.line(
                "rev-parse", "--verify", "--quiet", "--end-of-options", f"refs/heads/{name}^{{commit}}", allow=(0, 1, 128)
            )
            if commit:
                return commit
        known = self._git.output(
            "for-each-ref", "--count=20", "--sort=-committerdate", "--format=%(refname:lstrip=2)", f"refs/heads/{FOLDER}"
        )
        names = known.decode("utf-8", "replace").split()
        has = f"It has {', '.join(names)}" if names else "It has none; `autoresearch-mcp checkout --author NAME` makes one"
        raise LabError(f"{name[:100]!r} is no branch of an agent in this lab's repository. {has}.", "unknown_ref")

    def base(self, commit: str, champion: str, is_proposal: Callable[[str], bool]) -> str:
        """Return what a branch was made from: the newest champion or proposal in its history.

        Args:
            commit: the branch's end.
            champion: today's. A branch that took it in builds on it.
            is_proposal: tells whether a commit is one.

        Raises:
            LabError: `bad_base`.
        """
        line = self._git.output("rev-list", "--first-parent", f"--max-count={LONGEST}", commit).decode("ascii").split()
        own = next((each for each in line[1:] if is_proposal(each)), None)
        was_champion = self._git.line("merge-base", commit, champion, allow=(0, 1))
        if was_champion and (own is None or self._git.line("merge-base", own, was_champion, allow=(0, 1)) == own):
            return was_champion
        if own is None:
            raise LabError(
                "The branch has no champion and no proposal of this lab in its history, so there is nothing to compare it with. "
                "Begin a branch with `autoresearch-mcp checkout`.",
                "bad_base",
            )
        return own

    def changes(self, base: str, commit: str) -> dict[str, str | None]:
        """Return the new text of each file that differs between two commits, None for one that is gone.

        Raises:
            LabError: `not_editable`, `too_large`, `no_change`, and those of `source.decode`.
        """
        new: dict[str, Entry] = {}
        gone: list[str] = []
        wrong: list[str] = []
        for path, old_mode, mode, id in self._differences(base, commit):
            entry = Entry(mode, "blob", id)
            is_gone = mode == _NOTHING and Entry(old_mode, "blob", "").is_file
            if path not in self._editable or not (is_gone or (entry.is_file and old_mode in (_NOTHING, mode))):
                wrong.append(f"{path!r}{'' if path in self._editable else ' (not editable)'}")
            elif is_gone:
                gone.append(path)
            else:
                new[path] = entry
        if wrong:
            raise LabError(
                f"The branch changes or links what a proposal can't: {', '.join(wrong[:_SHOWN])}"
                f"{f' and {len(wrong) - _SHOWN} more' if len(wrong) > _SHOWN else ''}. Put it back as it is at {base[:12]} "
                f"(`git checkout {base[:12]} -- PATH`), commit, and propose again.",
                "not_editable",
            )
        if not new and not gone:
            raise LabError(f"The branch holds nothing that {base[:12]} doesn't: commit your change first.", "no_change")
        sizes = self._git.output("cat-file", "--batch-check=%(objectsize)", stdin="".join(f"{each.id}\n" for each in new.values()).encode())
        for path, size in zip(new, map(int, sizes.split()), strict=True):
            if size > source.MAX_FILE:
                raise LabError(f"{path} has {size:,} bytes at the branch; the cap is {source.MAX_FILE:,}. Make it smaller.", "too_large")
        texts: dict[str, str | None] = dict.fromkeys(gone)
        return texts | {path: source.decode(path, data) for path, data in self._objects.read_all(new).items()}

    def _differences(self, base: str, commit: str) -> Iterator[tuple[str, str, str, str]]:
        """Yield path, old and new mode, and new id of each file that differs. One folder at a time: a small tree can name 10^9 files.

        Raises:
            LabError: `too_large`.
        """
        folders = [("", f"{base}^{{tree}}", f"{commit}^{{tree}}")]
        for count in itertools.count(1):
            if not folders:
                return
            if count > MOST_FOLDERS:
                raise LabError(f"The branch changes more than {MOST_FOLDERS} folders, which is too much for one proposal.", "too_large")
            above, *both = folders.pop()
            fields = self._git.output("diff-tree", "-z", "--raw", "--no-renames", "--no-abbrev", *both).split(b"\0")[:-1]
            for head, raw in zip(fields[::2], fields[1::2], strict=True):
                old_mode, mode, old_id, id, _ = head.decode("ascii").removeprefix(":").split()
                path = above + raw.decode("utf-8", "replace")
                if _TREE in (old_mode, mode):
                    folders.append((f"{path}/", old_id if old_mode == _TREE else _EMPTY, id if mode == _TREE else _EMPTY))
                else:
                    yield path, old_mode, mode, id

    def message(self, commit: str) -> str:
        """Return a commit's message."""
        return self._git.output("log", "-1", "--format=%B", commit).decode("utf-8", "replace").strip()

    def check_out(self, commit: str, directory: Path, author: str, name: str | None = None) -> str:
        """Make a work tree on a fresh branch.

        Args:
            commit: where the branch begins.
            directory: of the work tree; it must not exist.
            author: whose branch it is.
            name: its last part; by default the first free number.

        Returns:
            The branch's name.

        Raises:
            LabError: `bad_name`, `branch_exists`, `directory_exists`.
        """
        folder = f"{FOLDER}/{folder_of(author)}"
        taken = set(self._git.output("for-each-ref", "--format=%(refname:lstrip=2)", f"refs/heads/{folder}").decode().split())
        branch = f"{folder}/{name}" if name else next(free for n in range(1, len(taken) + 2) if (free := f"{folder}/{n}") not in taken)
        if not _NAME.fullmatch(branch):
            raise LabError(f"{name!r} is no name for a branch: it takes letters, digits and _.+-, at most 64.", "bad_name")
        if branch in taken:
            raise LabError(f"The branch {branch} exists already. Choose another --branch.", "branch_exists")
        if directory.exists():
            raise LabError(f"{directory} exists already. Name a folder that doesn't.", "directory_exists")
        self._git.output("worktree", "prune", env=_OWN_PLACE)  # of work trees that were deleted by hand
        self._git.output("worktree", "add", "--quiet", "--no-track", "-b", branch, str(directory), commit, env=_OWN_PLACE)
        return branch

    def take_in(self, directory: Path, commit: str) -> tuple[bool, str]:
        """Merge a commit into the branch of a work tree. A conflict is left in its files, as git leaves one.

        Args:
            directory: the work tree, whose changes are committed.
            commit: the champion.

        Returns:
            Whether it went in without a conflict, and git's own words.

        Raises:
            LabError: `not_a_checkout` where the folder is no work tree of an agent's branch; `uncommitted`.
        """
        branch = self._line(directory, "symbolic-ref", "--quiet", "--short", "HEAD")
        common = self._line(directory, "rev-parse", "--path-format=absolute", "--git-common-dir")
        if not _NAME.fullmatch(branch) or not common or not Path(common).samefile(self._git.directory):
            raise LabError(f"{directory} is no work tree that `autoresearch-mcp checkout` made of this lab.", "not_a_checkout")
        if self._line(directory, "status", "--porcelain", "--untracked-files=no"):
            raise LabError("The work tree has changes that aren't committed. Commit them first; nothing was changed.", "uncommitted")
        signed = {**_OWN_PLACE, **identity(branch.split("/")[1])}
        status, out, err = self._git.run("-C", str(directory), "merge", "--no-edit", "--quiet", commit, env=signed)
        words = (out.decode("utf-8", "replace") + err).strip()
        if status not in (0, 1):
            raise failure("merge", words)
        return status == 0, words

    def _line(self, directory: Path, *command: str) -> str:
        _, out, _ = self._git.run("-C", str(directory), *command, env=_OWN_PLACE)
        return out.decode("utf-8", "replace").strip()
