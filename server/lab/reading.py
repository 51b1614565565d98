"""Reading the lab's code: a file at a commit, and what a commit changed."""

import re

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.paths import SETTINGS, LabPaths
from autoresearch_mcp.server.untrusted import clean, fence, visible

_FILE_CHARS = 100_000  # of one answer of read_file
_ABOUT_AGENTS = re.compile(r"\.claude/|\.mcp\.json$|orchestrator\.md$")  # how agents and clients work, which no training needs


class Reading:
    """The use cases that read the lab's repository."""

    def __init__(self, core: LabCore) -> None:
        self._core = core

    def champion(self) -> str:
        """Return the commit that proposals build on by default."""
        return self._core.repo.champion()

    def read_file(self, path: str | None = None, commit: str | None = None, first_line: int = 1, max_lines: int = 800) -> a.FileAnswer:
        """Return lines of a text file at a commit, invisible characters as escapes.

        Args:
            path: the file; by default the one that is run. `lab.toml` is shown as it is in force, whatever the commit.
            commit: by default the champion.
            first_line: counted from 1.
            max_lines: at most; fewer where they are long.

        Raises:
            LabError: `unknown_path`, `not_text`, `bad_settings`, or the repository's own.
        """
        repo = self._core.repo
        path = path or self._core.settings.training.file
        sha = self._core.commit(commit)
        every = repo.paths(sha)
        paths = [each for each in every if not _ABOUT_AGENTS.match(each)]
        if path not in every:
            raise LabError(f"There is no file {clean(path)[:200]!r} at {sha[:12]}. Its files are: {', '.join(paths[:40])}.", "unknown_path")
        try:
            content = self._settings_in_force() if path == SETTINGS else repo.read(sha, path).decode("utf-8")
            lines = content.removesuffix("\n").split("\n")  # as patches count them
        except UnicodeDecodeError:
            raise LabError(f"{path} is not a text file, so it can't be shown.", "not_text") from None
        part = [visible(line) for line in lines[first_line - 1 : first_line - 1 + max_lines]]  # as they are shown, so the cap holds
        while len(part) > 1 and sum(map(len, part)) > _FILE_CHARS:
            part = part[: len(part) // 2]
        cut = bool(part) and len(part[0]) > _FILE_CHARS
        part = [part[0][:_FILE_CHARS]] if cut else part
        return a.FileAnswer(
            path=path,
            commit=sha,
            text="\n".join(part) + "\n" if part else "",
            lines=len(lines),
            first_line=first_line,
            truncated=first_line > 1 or len(part) < len(lines) or cut,
            cut=cut,
            editable=path in repo.editable,
            files=paths[:200],
            in_force=path == SETTINGS,
        )

    def _settings_in_force(self) -> str:
        """Return the text of `lab.toml`, without paths of this machine.

        Raises:
            LabError: `bad_settings`, where the last edit is not valid.
        """
        if problem := self._core.settings_file.problem():
            raise LabError(f"The last edit of lab.toml is not valid, so the settings from before it still hold. {problem}", "bad_settings")
        return mask_paths(LabPaths(self._core.root).settings.read_text("utf-8"), self._core.root)

    def diff(self, commit: str, against: str = "base", limit: int = 50_000) -> str:
        """Return the unified diff from a commit to a proposal or champion, fenced.

        Args:
            commit: what is shown.
            against: `base` for the commit that the proposal changed, `champion`, or a commit.
            limit: of its characters; the middle of a longer one is left out.

        Raises:
            LabError: the repository's own.
        """
        sha = self._core.commit(commit)
        proposal = self._core.ledger.proposal(sha)
        if proposal is None and against == "base":
            return f"{sha[:12]} was not made by propose_patch, so it has no base to compare with."
        other = proposal.base if proposal and against == "base" else self._core.commit(against)
        if other == sha:
            return f"{sha[:12]} is that commit itself, so there is no difference."
        by = f" by {proposal.author}" if proposal else ""
        return fence(self._core.repo.diff(other, sha), f"diff of {sha[:12]}{by}, against {other[:12]}", limit)
