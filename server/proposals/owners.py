"""What the owner says and commits by hand: which commit a name means, whether `main` is ahead, and which patterns name nothing."""

from collections.abc import Sequence

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.git import Git

_MAIN = "refs/heads/main"
_SHOWN = 4  # paths in a warning


class Owners:
    """What the owner commits by hand.

    Args:
        git: of the lab's repository.
        branch: the full name of the champion's branch.
    """

    def __init__(self, git: Git, branch: str) -> None:
        self._git = git
        self._branch = branch
        self._looked: tuple[object, list[str]] | None = None
        self._matched: tuple[object, list[str]] | None = None

    def commit(self, name: str) -> str:
        """Return the full id of the commit that a branch, a tag or an id names.

        Raises:
            LabError: `unknown_commit`.
        """
        commit = self._git.line("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", allow=(0, 1, 128))
        if not commit:
            raise LabError(f"{name[:100]!r} names no commit of the lab's repository.", "unknown_commit")
        return commit

    def ahead(self, champion: str, watched: Editable) -> list[str]:
        """Return a warning where `main` changes what trainings run and the champion doesn't hold it. Cheap while neither moves.

        Args:
            champion: the commit of now.
            watched: the files that trainings run.
        """
        key = self._git.ref(_MAIN), champion, watched.patterns
        if self._looked is None or self._looked[0] != key:
            self._looked = key, self._compare(key[0], champion, watched)
        return self._looked[1]

    def unmatched(self, champion: str, files: Sequence[str]) -> list[str]:
        """Return a warning where patterns of `[training] files` name nothing. Cheap while neither they nor the champion change.

        Args:
            champion: the commit of now.
            files: the patterns.
        """
        key = champion, tuple(files)
        if self._matched is None or self._matched[0] != key:
            paths = (
                self._git.output("ls-tree", "-r", "-z", "--name-only", champion).decode("utf-8", "replace").split("\0")[:-1]
                if files
                else []
            )
            idle = [pattern for pattern in files if not pattern.startswith("!") and not any(path in Editable([pattern]) for path in paths)]
            folders = [pattern for pattern in idle if any(path.startswith(f"{pattern}/") for path in paths)]
            hint = f" (a folder is written {folders[0]}/**)" if folders else ""
            text = f"For the owner: [training] files names nothing at the champion by {', '.join(idle[:_SHOWN])}{hint}, so runs do without."
            self._matched = key, [text] if idle else []
        return self._matched[1]

    def _compare(self, main: str, champion: str, watched: Editable) -> list[str]:
        fork = self._git.line("merge-base", main, champion, allow=(0, 1)) if main and main != champion else main
        if fork == main:
            return []
        changed = self._git.output("diff-tree", "-r", "-z", "--name-only", *([fork, main] if fork else [champion, main]))
        paths = [path for path in changed.decode("utf-8", "replace").split("\0") if path in watched]
        if not paths:
            return []
        name = self._branch.removeprefix("refs/heads/")
        first = "" if fork == champion else f"first `git merge {name}` there, for it lacks what was promoted; then "
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        return [
            f"For the owner: main is ahead of the champion: it changes {', '.join(paths[:_SHOWN])}{more}, which no training runs. To make it "
            f"the champion, {first}`autoresearch-mcp adopt main`."
        ]
