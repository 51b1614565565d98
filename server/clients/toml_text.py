"""Edits TOML configurations as text: a server is one table, which stands at the end."""

import json
import re
import tomllib
from typing import Any

from autoresearch_mcp.server.clients.formats import UNSAFE, newline_of

_HEADER = re.compile(r"[ \t]*\[")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class TomlText:
    """TOML, in which each server is a table `[section.name]`."""

    def servers(self, text: str, section: str) -> dict[str, Any]:
        """Return the servers of a configuration, by name.

        Raises:
            ValueError: the text is not TOML, or its servers are no table.
        """
        servers = _load(text).get(section, {})
        if not isinstance(servers, dict):
            raise ValueError(f"its {section!r} is not a table")
        return servers

    def put(self, text: str, section: str, name: str, server: dict[str, Any]) -> str:
        """Return the text with a server added, or replaced in its place.

        Raises:
            ValueError: as above, or the server stands there in a form that can't be edited.
        """
        wanted, servers = _load(text), self.servers(text, section)
        newline = newline_of(text)
        table = self.snippet(section, name, server).replace("\n", newline)
        if name in servers:
            start, end = _span(text, section, name)
            new = text[:start] + table + text[end:]
        else:
            gap = "" if not text else newline if text.endswith("\n") else newline * 2
            new = f"{text}{gap}{table}"
        return _checked(new, section, wanted | {section: servers | {name: server}})

    def remove(self, text: str, section: str, name: str) -> str:
        """Return the text without a server that it has.

        Raises:
            ValueError: as above.
        """
        wanted, servers = _load(text), self.servers(text, section)
        start, end = _span(text, section, name)
        before, after = text[:start], text[end:]
        newline = newline_of(text)
        if before.endswith(newline * 2):
            before = before.removesuffix(newline)
        rest = {key: value for key, value in servers.items() if key != name}
        return _checked(before + after, section, wanted | {section: rest})

    def snippet(self, section: str, name: str, server: dict[str, Any]) -> str:
        """Return a configuration that holds this server alone."""
        lines = [f"{key} = {_value(value)}\n" for key, value in server.items()]
        return f"[{_key(section)}.{_key(name)}]\n" + "".join(lines)


def _load(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"it is not TOML ({error})") from None


def _span(text: str, section: str, name: str) -> tuple[int, int]:
    """Return where a server's tables stand, without the blank lines and comments that precede what follows."""
    names = [rf"(?:{re.escape(word)}|{re.escape(json.dumps(word))})" for word in (section, name)]
    own = re.compile(rf"[ \t]*\[[ \t]*{names[0]}[ \t]*\.[ \t]*{names[1]}[ \t]*[.\]]")
    start = end = at = 0
    inside = found_any = False
    for line in text.splitlines(keepends=True):
        if _HEADER.match(line):
            inside = own.match(line) is not None
            if inside and not found_any:
                start, found_any = at, True
        at += len(line)
        if inside and line.strip() and not line.lstrip().startswith("#"):
            end = at
    if not found_any:
        raise ValueError(f"its {section}.{name} is not a table of its own, so it can't be edited safely")
    return start, end


def _checked(text: str, section: str, wanted: dict[str, Any]) -> str:
    if {section: {}} | _load(text) != wanted:
        raise ValueError(UNSAFE)
    return text


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
