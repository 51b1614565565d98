"""Edits YAML configurations as text, as far as a section in block style goes; any other form is refused.

No YAML parser is a dependency of the server, so it reads no more than lines and their indentation.
"""

import json
import re
from typing import Any, NamedTuple

from autoresearch_mcp.server.clients.formats import UNSAFE, newline_of

_KEY = re.compile(r"""(?P<indent> *)(?P<quote>["']?)(?P<key>[\w .-]*\w)(?P=quote) *:(?=[ ]|$) *(?P<value>.*?) *""")
_EMPTY = ("", "{}", "null", "~")


class YamlText:
    """YAML, in which the section is a mapping of servers by name, in block style."""

    def servers(self, text: str, section: str) -> dict[str, Any]:
        """Return the servers of a configuration, by name, with such values as fit in one line.

        Raises:
            ValueError: the section is there in another form.
        """
        lines = text.splitlines()
        part = _find(lines, section)
        return {name: _read(lines[start + 1 : end]) for name, (start, end) in part.members.items()} if part else {}

    def put(self, text: str, section: str, name: str, server: dict[str, Any]) -> str:
        """Return the text with a server added, or replaced in its place.

        Raises:
            ValueError: as above.
        """
        lines = text.splitlines(keepends=True)
        newline = newline_of(text)
        part = _find(text.splitlines(), section)
        if part is None:
            start, end, new = len(lines), len(lines), _block(name, server, "  ", section)
        elif not part.members:
            start, end, new = part.start, part.start + 1, _block(name, server, "  ", section)
        else:
            start, end = part.members.get(name, (part.end, part.end))
            new = _block(name, server, part.indent)
        if start and not lines[start - 1].endswith("\n"):
            lines[start - 1] += newline
        edited = "".join([*lines[:start], new.replace("\n", newline), *lines[end:]])
        return self._checked(edited, section, {**self.servers(text, section), name: server})

    def remove(self, text: str, section: str, name: str) -> str:
        """Return the text without a server that it has.

        Raises:
            ValueError: as above.
        """
        lines = text.splitlines(keepends=True)
        part = _find(text.splitlines(), section)
        assert part is not None
        start, end = part.members[name]
        if len(part.members) == 1:
            lines[part.start] = f"{section}: {{}}{newline_of(text)}"
        rest = {key: value for key, value in self.servers(text, section).items() if key != name}
        return self._checked("".join(lines[:start] + lines[end:]), section, rest)

    def snippet(self, section: str, name: str, server: dict[str, Any]) -> str:
        """Return a configuration that holds this server alone."""
        return _block(name, server, "  ", section)

    def _checked(self, text: str, section: str, wanted: dict[str, Any]) -> str:
        if self.servers(text, section) != wanted:
            raise ValueError(UNSAFE)
        return text


class _Section(NamedTuple):
    """Tells where a section and its members stand, as line numbers from 0; ends are exclusive."""

    start: int
    end: int
    indent: str
    members: dict[str, tuple[int, int]]


def _find(lines: list[str], section: str) -> _Section | None:
    """Find a section; None where there is none.

    Raises:
        ValueError: the text has a form that this module doesn't read.
    """
    tops = [
        at for at, line in enumerate(lines) if line.strip() and line[0] not in " #" and not line.startswith("- ") and (at or line != "---")
    ]
    heads = {at: match for at in tops if (match := _KEY.fullmatch(lines[at]))}
    starts = [at for at, match in heads.items() if match["key"] == section]
    if len(heads) < len(tops) or len(starts) > 1:
        raise ValueError(UNSAFE)
    if not starts:
        return None
    start = starts[0]
    end = _without_tail(lines, start, next((at for at in tops if at > start), len(lines)), 1)
    body = [line for line in lines[start + 1 : end] if not _is_aside(line)]
    empty = _value(heads[start]) in _EMPTY
    if not body:
        if not empty:
            raise ValueError(UNSAFE)
        return _Section(start, start + 1, "", {})
    first = _KEY.fullmatch(body[0])
    if first is None or _value(heads[start]) or any(not line.startswith(first["indent"]) for line in body):
        raise ValueError(UNSAFE)
    width = len(first["indent"])
    own = [at for at in range(start + 1, end) if not _is_aside(lines[at]) and lines[at][width] != " "]
    names = [_KEY.fullmatch(lines[at]) for at in own]
    members = {
        name["key"]: (at, _without_tail(lines, at, stop, width + 1))
        for at, stop, name in zip(own, [*own[1:], end], names, strict=True)
        if name
    }
    if len(members) < len(own):
        raise ValueError(UNSAFE)
    return _Section(start, end, first["indent"], members)


def _without_tail(lines: list[str], start: int, end: int, width: int) -> int:
    """Return the end of a part without its last blank lines, and without comments that are indented by less than `width`."""
    while end > start + 1 and _is_aside(lines[end - 1]) and len(lines[end - 1]) - len(lines[end - 1].lstrip()) < width:
        end -= 1
    return end


def _is_aside(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _read(lines: list[str]) -> dict[str, Any]:
    """Return those values of a server that stand in one line, and lists of such."""
    entry: dict[str, Any] = {}
    depth = next((len(match["indent"]) for line in lines if (match := _KEY.fullmatch(line))), 0)
    key = ""
    for line in lines:
        match = _KEY.fullmatch(line)
        if match and len(match["indent"]) == depth:
            key = match["key"]
            entry[key] = _scalar(_value(match)) if _value(match) else []
        elif line.lstrip().startswith("- ") and isinstance(entry.get(key), list):
            entry[key].append(_scalar(line.lstrip()[2:].strip()))
    return entry


def _value(match: re.Match[str]) -> str:
    return "" if match["value"].startswith("#") else match["value"]


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip("'")


def _block(name: str, server: dict[str, Any], indent: str, section: str = "") -> str:
    head = f"{section}:\n" if section else ""
    return f"{head}{indent}{name}:\n" + "".join(
        f"{indent}  {key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in server.items()
    )
