"""Which paths of a lab a proposal may touch."""

from collections.abc import Sequence

from autoresearch_mcp.server.errors import LabError


class Editable:
    """The paths that proposals may touch.

    Args:
        patterns: exact paths, and `dir/**` for all below a folder.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._exact = {pattern for pattern in patterns if not pattern.endswith("/**")}
        self._folders = tuple(pattern.removesuffix("**") for pattern in patterns if pattern.endswith("/**"))

    def __contains__(self, path: str) -> bool:
        return path in self._exact or (path.startswith(self._folders) and _is_plain(path))

    @property
    def only(self) -> str | None:
        """The one editable file, where there is just one."""
        return next(iter(self._exact)) if len(self._exact) == 1 and not self._folders else None

    def check(self, path: str) -> str:
        """Return the path if it is editable.

        Raises:
            LabError: `not_editable`, with the paths that are.
        """
        if path not in self:
            allowed = ", ".join(self.patterns)
            raise LabError(f"{path[:200]!r} is not editable; proposals may touch {allowed} only. Nothing was kept.", "not_editable")
        return path


def _is_plain(path: str) -> bool:
    """Whether a path below an editable folder is one that git and every file system take for what it says."""
    parts = path.split("/")
    return len(path) <= 400 and path.isprintable() and not set(path) & set('\\:*?"<>|') and all(_is_name(part) for part in parts)


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and part == part.strip() and not part.endswith(".") and not part.lower().startswith((".git", "git~"))
