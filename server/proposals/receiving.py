"""git's pre-receive hook: looks at what a push brought while it is in quarantine, and refuses all of it or lets its refs move.

It runs as a process of git's own, as `python -m autoresearch_mcp.server.proposals.receiving`. What it writes to stderr is shown to who pushes.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.branches import FOLDER, LONGEST, Branches, folder_of, is_name
from autoresearch_mcp.server.proposals.git import Git
from autoresearch_mcp.server.proposals.objects import Objects
from autoresearch_mcp.server.proposals.offered import PUSH, Push

MOST_BRANCHES = 200  # of one agent
MOST_BYTES = 32 << 20  # of all files and folders that a push brings, unpacked
_HEADS = "refs/heads/"
_PUBLISHED = (f"{_HEADS}research", f"{_HEADS}main")


def main() -> int:
    """Check the push that git tells of on stdin.

    Returns:
        1 where nothing of it may stay.
    """
    push = Push(**json.loads(os.environ[PUSH]))
    incoming = os.environ.get("GIT_QUARANTINE_PATH")
    try:
        updates = [Update(*line.split()) for line in sys.stdin.read().splitlines()]
        Receiving(push, Path(incoming) if incoming else None).check(updates)
    except (LabError, MemoryError) as error:
        sys.stderr.write(f"{error or 'It takes too much memory to check.'} Nothing was moved.\n")
        return 1
    return 0


class Update:
    """A ref that a push wants to move."""

    def __init__(self, old: str, new: str, ref: str) -> None:
        self.old, self.new, self.ref = old, new, ref

    @property
    def deletes(self) -> bool:
        """Whether the ref is to be gone."""
        return not self.new.strip("0")


class Receiving:
    """Looks at one push.

    Args:
        push: whose it is.
        incoming: the folder with its objects, in quarantine.
    """

    def __init__(self, push: Push, incoming: Path | None) -> None:
        self._push = push
        self._git = Git(Path(push.root), incoming)
        self._branches = Branches(self._git, Objects(self._git), Editable(push.editable))

    def check(self, updates: Sequence[Update]) -> None:
        """Accept a push and write it down, or refuse it.

        Raises:
            LabError: `not_yours`, `too_many_branches`, `too_large`, `bad_base`, and those of `Branches.changes`.
        """
        for update in updates:
            self._check_ref(update.ref)
        fresh = [update for update in updates if not update.deletes]
        for folder in {update.ref.split("/")[3] for update in fresh}:
            own = f"{_HEADS}{FOLDER}/{folder}"
            there = set(self._git.output("for-each-ref", "--format=%(refname)", own).decode().split())
            if len(there | {update.ref for update in fresh if update.ref.startswith(f"{own}/")}) > MOST_BRANCHES:
                raise LabError(f"An agent has at most {MOST_BRANCHES} branches. Delete some of yours.", "too_many_branches")
        if fresh:
            self._check_size([update.new for update in fresh])
        for update in fresh:
            self._check_change(update)
        self._write_down(updates)

    def _check_ref(self, ref: str) -> None:
        name = ref.removeprefix(_HEADS)
        mine = f"{_HEADS}{FOLDER}/{self._push.folder or '<your name>'}/"
        if not ref.startswith(_HEADS) or not is_name(name) or (self._push.folder and not ref.startswith(mine)):
            raise LabError(f"You may push to {mine}... alone, and {ref[:100]} isn't there.", "not_yours")

    def _check_size(self, commits: Sequence[str]) -> None:
        """Refuse what is too much for a change of source code, before any of it is read."""
        outside = ("--not", *self._published())
        count = int(self._git.line("rev-list", "--count", f"--max-count={LONGEST + 1}", *commits, *outside))
        if count > LONGEST:
            raise LabError(f"A push brings at most {LONGEST} commits beyond the champion's. Squash them into one.", "too_large")
        objects = self._git.output("rev-list", "--objects", "--no-object-names", *commits, "--not", "--all")
        sizes = self._git.output("cat-file", "--batch-check=%(objectsize)", stdin=objects)
        if (total := sum(map(int, sizes.split()))) > MOST_BYTES:
            raise LabError(f"The push unpacks to {total:,} bytes; the cap is {MOST_BYTES:,}.", "too_large")

    def _check_change(self, update: Update) -> None:
        base = next((base for each in self._published() if (base := self._git.line("merge-base", update.new, each, allow=(0, 1)))), "")
        if not base:
            raise LabError(f"{update.ref} has no champion of this lab in its history. Begin a branch at one.", "bad_base")
        try:
            self._branches.changes(base, update.new)
        except LabError as error:
            if error.code != "no_change":
                raise LabError(f"{update.ref}: {error}", error.code) from None

    def _published(self) -> list[str]:
        return self._git.output("for-each-ref", "--format=%(objectname)", *_PUBLISHED).decode("ascii").split()

    def _write_down(self, updates: Sequence[Update]) -> None:
        from autoresearch_mcp.server.ledger import Ledger  # half a second, which a refusal needn't take

        names = ", ".join(f"{update.ref.removeprefix(_HEADS)}{' (deleted)' if update.deletes else ''}" for update in updates)
        who = self._push.who or folder_of(updates[0].ref.split("/")[3])
        with contextlib.closing(Ledger(LabPaths(Path(self._push.root)).ledger)) as ledger:
            ledger.record_change(who, self._push.role, "http", f"git at {self._push.origin}", "git push", names[:400])


if __name__ == "__main__":
    sys.exit(main())
