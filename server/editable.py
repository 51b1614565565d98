"""Which paths of a lab a proposal may touch."""

import re
from collections.abc import Sequence

from autoresearch_mcp.server.errors import LabError

_WILD = re.compile(r"[*?\[]|^!|/$")
_OWNERS = frozenset(("lab.toml", ".mcp.json", ".claude", ".autoresearch"))  # of the lab's root: no wildcard reaches them


class Editable:
    """The paths that proposals may touch.

    A pattern without wildcards is one path. Others mean what they mean in `.gitignore`, with `!` for exceptions: `dir/**` and `dir/` are
    all below a folder, `*.py` is in any folder, `src/*.py` in one, and of several that match, the last decides. This is a matcher of our
    own, as git knows such patterns for paths of a work tree only.

    Args:
        patterns: as in lab.toml.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._exact = {pattern for pattern in patterns if not is_pattern(pattern)}
        self._rules = [(not pattern.startswith("!"), _compiled(pattern)) for pattern in patterns]

    def __contains__(self, path: str) -> bool:
        decided = next((allows for allows, rule in reversed(self._rules) if rule.match(path)), False)
        return decided and (path in self._exact or (_is_plain(path) and path.split("/")[0] not in _OWNERS))

    @property
    def only(self) -> str | None:
        """The one editable file, where there is just one."""
        return self.patterns[0] if len(self.patterns) == 1 and self._exact else None

    def names(self, path: str) -> bool:
        """Return whether a path is named by itself, not by a wildcard or a folder."""
        return path in self._exact

    def check(self, path: str) -> str:
        """Return the path if it is editable.

        Raises:
            LabError: `not_editable`, with the paths that are.
        """
        if path not in self:
            allowed = ", ".join(self.patterns)
            raise LabError(f"{path[:200]!r} is not editable; proposals may touch {allowed} only. Nothing was kept.", "not_editable")
        return path


def is_pattern(text: str) -> bool:
    """Return whether a text has wildcards, so that it may name several paths."""
    return _WILD.search(text) is not None


def _compiled(pattern: str) -> re.Pattern[str]:
    """Return what matches a path that a pattern names, or that is below a folder that it names."""
    if not is_pattern(pattern):
        return re.compile(re.escape(pattern) + r"\Z")
    bare = pattern.removeprefix("!")
    anchored, folder = "/" in bare.rstrip("/"), bare.endswith("/")
    parts = bare.strip("/").split("/")
    text = "" if anchored else "(?:.*/)?"
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            text += ".+" if last else "(?:.*/)?"
        else:
            text += _segment(part) + ("" if last else "/")
    try:
        return re.compile(text + ("/.*" if folder else "(?:/.*)?") + r"\Z", re.DOTALL)
    except re.error:  # a range that runs backwards; git has it match nothing
        return re.compile(r"(?!)")


def _segment(part: str) -> str:
    """Return a part of a pattern, between slashes, as a regular expression."""
    text, at = "", 0
    while at < len(part):
        end = part.find("]", at + 2) if part[at] == "[" else -1
        if end > 0:
            inside = re.sub(r"([\\\[&~|])", r"\\\1", part[at + 1 : end])
            text += f"(?!/)[{'^' + inside[1:] if inside[0] in '!^' else inside}]"
            at = end
        else:
            text += {"*": "[^/]*", "?": "[^/]"}.get(part[at], re.escape(part[at]))
        at += 1
    return text


def _is_plain(path: str) -> bool:
    """Whether a path that a wildcard names is one that git and every file system take for what it says."""
    parts = path.split("/")
    return len(path) <= 400 and path.isprintable() and not set(path) & set('\\:*?"<>|') and all(_is_name(part) for part in parts)


def _is_name(part: str) -> bool:
    return (
        part not in ("", ".", "..")
        and part == part.strip()
        and not part.endswith(".")
        and (part == ".gitkeep" or not part.lower().startswith((".git", "git~")))
    )
