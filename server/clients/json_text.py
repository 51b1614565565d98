"""Edits JSON configurations as text, those with comments and trailing commas too."""

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from autoresearch_mcp.server.clients.formats import UNSAFE, newline_of

_BOM = "\ufeff"
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING = re.compile(rf"{_STRING}|,(?=[ \t\r\n]*[}}\]])")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class JsonText:
    """JSON, in which servers are members of one object at the top.

    Attributes:
        comments: whether the client reads comments and trailing commas. Where it doesn't, a file that has them is refused.
    """

    comments: bool = False

    def servers(self, text: str, section: str) -> dict[str, Any]:
        """Return the servers of a configuration, by name.

        Raises:
            ValueError: the text is not an object with an object of servers.
        """
        servers: dict[str, Any] = self._load(text, section).get(section, {})
        return servers

    def put(self, text: str, section: str, name: str, server: dict[str, Any]) -> str:
        """Return the text with a server added, or replaced in its place.

        Raises:
            ValueError: as above.
        """
        whole = self._load(text, section)
        mark, body = _cut_mark(text)
        first = re.search(r"\n([ \t]+)\"", body)
        indent = first[1] if first else "  "
        if not self._plain(body).strip():
            return mark + body + _dump({section: {name: server}}, indent, 0) + "\n"
        top = self._top(body)
        if section not in whole:
            new = top.put(body, self._plain(body), section, _dump({name: server}, indent, 1), indent, 1)
        else:
            inner = _Object.at(self._plain(body), top.members[section][1])
            new = inner.put(body, self._plain(body), name, _dump(server, indent, 2), indent, 2)
        whole = {**whole, section: {**whole.get(section, {}), name: server}}
        return self._checked(mark + new.replace("\r\n", "\n").replace("\n", newline_of(body)), section, whole)

    def remove(self, text: str, section: str, name: str) -> str:
        """Return the text without a server that it has.

        Raises:
            ValueError: as above.
        """
        whole = self._load(text, section)
        mark, body = _cut_mark(text)
        inner = _Object.at(self._plain(body), self._top(body).members[section][1])
        rest = {key: value for key, value in whole[section].items() if key != name}
        return self._checked(mark + inner.remove(body, self._plain(body), name), section, {**whole, section: rest})

    def snippet(self, section: str, name: str, server: dict[str, Any]) -> str:
        """Return a configuration that holds this server alone."""
        return json.dumps({section: {name: server}}, indent=2, ensure_ascii=False)

    def _plain(self, body: str) -> str:
        """Return a text of the same length, in which spaces stand for comments and trailing commas."""
        if not self.comments:
            return body
        bare = _COMMENT.sub(lambda match: match[0] if match[0][0] == '"' else re.sub(r"[^\r\n]", " ", match[0]), body)
        return _TRAILING.sub(lambda match: match[0] if match[0][0] == '"' else " ", bare)

    def _top(self, body: str) -> "_Object":
        plain = self._plain(body)
        return _Object.at(plain, _skip(plain, 0))

    def _load(self, text: str, section: str) -> dict[str, Any]:
        plain = self._plain(_cut_mark(text)[1])
        try:
            whole = json.loads(plain) if plain.strip() else {}
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"it is not {'' if self.comments else 'plain '}JSON ({error})") from None
        if not isinstance(whole, dict) or not isinstance(whole.get(section, {}), dict):
            raise ValueError(f"it is not an object with an object {section!r}")
        return whole

    def _checked(self, text: str, section: str, wanted: dict[str, Any]) -> str:
        if self._load(text, section) != wanted:
            raise ValueError(UNSAFE)
        return text


class _Object(NamedTuple):
    """Tells where a JSON object and its members stand in a text that is known to be valid.

    Attributes:
        start: of the object.
        end: after it.
        members: by key: where the key starts, where the value starts, and where it ends.
    """

    start: int
    end: int
    members: dict[str, tuple[int, int, int]]

    @classmethod
    def at(cls, text: str, start: int) -> "_Object":
        members: dict[str, tuple[int, int, int]] = {}
        at = start + 1
        while text[at := _skip(text, at)] != "}":
            key_at = at
            key, at = _DECODER.raw_decode(text, at)
            begin = _skip(text, text.index(":", at) + 1)
            _, at = _DECODER.raw_decode(text, begin)
            members[key] = (key_at, begin, at)
            at = _skip(text, at)
            at += text[at] == ","
        return cls(start, at + 1, members)

    def put(self, text: str, plain: str, key: str, value: str, indent: str, depth: int) -> str:
        """Return the text with a member added at the end, or its value replaced."""
        if key in self.members:
            _, begin, end = self.members[key]
            return text[:begin] + value + text[end:]
        member = f"\n{indent * depth}{json.dumps(key)}: {value}"
        inside = text[self.start + 1 : self.end - 1]
        if not self.members:
            kept = inside.rstrip() if inside.strip() else ""  # comments
            return f"{text[: self.start]}{{{kept}{member}\n{indent * (depth - 1)}}}{text[self.end :]}"
        last = max(end for _, _, end in self.members.values())
        stop = last
        line_end = text.find("\n", last)
        if line_end >= 0 and not plain[last:line_end].strip() and "/*" not in text[last:line_end]:
            stop = line_end - (text[line_end - 1] == "\r")  # a comment at the end of the line stays with its member
        if text[last:stop].lstrip().startswith(","):  # a trailing comma, which serves the new member as well
            return f"{text[:stop]}{member},{text[stop:]}"
        return f"{text[:last]},{text[last:stop]}{member}{text[stop:]}"

    def remove(self, text: str, plain: str, key: str) -> str:
        """Return the text without a member, and without the comma that it leaves over."""
        key_at, _, end = self.members[key]
        after = [begin for begin, _, _ in self.members.values() if begin > key_at]
        if after:
            return text[:key_at] + text[min(after) :]
        before = [stop for _, _, stop in self.members.values() if stop < key_at]
        if not before:
            inside = text[self.start + 1 : key_at] + text[end : self.end - 1]
            return text[: self.start + 1] + (inside if inside.strip() else "") + text[self.end - 1 :]
        if trailing := re.compile(r"[ \t]*,").match(text, end):
            return text[:key_at].rstrip() + text[trailing.end() :]
        comma = plain.index(",", max(before))
        return text[:comma] + text[comma + 1 : key_at].rstrip() + text[end:]


def _cut_mark(text: str) -> tuple[str, str]:
    return (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _dump(value: object, indent: str, depth: int) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False).replace("\n", "\n" + indent * depth)
