"""Diffs and logs for the page: lines with their kind, and Python's words coloured."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from autoresearch_mcp.server.untrusted import visible

if TYPE_CHECKING:
    from pygments.lexer import Lexer

_MOST_COLOURED = 2_000  # characters of a line
_KINDS = {"+": "added", "-": "removed", "@": "hunk"}


@dataclass(frozen=True)
class Line:
    """A line of a diff: its kind for the style sheet, its first character, and the rest as safe HTML."""

    kind: str
    mark: str
    html: Markup


def diff_lines(diff: str) -> list[Line]:
    """Return a unified diff as lines."""
    lines, in_head = [], True
    for text in diff.splitlines():
        if text.startswith(("diff --git", "--- ", "+++ ", "index ", "new file", "deleted file", "rename ", "similarity ")) and (
            in_head or text.startswith("diff --git")
        ):
            in_head = True
            lines.append(Line("head", "", Markup.escape(visible(text))))
            continue
        in_head = False
        kind = _KINDS.get(text[:1], "same")
        lines.append(
            Line(kind, text[:1] if kind != "hunk" else "", Markup.escape(visible(text)) if kind == "hunk" else _coloured(text[1:]))
        )
    return lines


def plain(fenced: str) -> str:
    """Return the text of a fence without the marks around it, which are for agents."""
    lines = fenced.split("\n")
    if len(lines) > 1 and lines[0].startswith("[data ") and lines[-1].startswith("[end of data "):
        return "\n".join(lines[1:-1])
    return fenced


def _coloured(text: str) -> Markup:
    if len(text) > _MOST_COLOURED:
        return Markup.escape(visible(text))
    spans = []
    from pygments import lex  # and jinja2 elsewhere: 0.1 s, which a server that nobody looks at needn't spend
    from pygments.token import STANDARD_TYPES

    for token, value in lex(text, _lexer()):
        while token not in STANDARD_TYPES and token.parent is not None:
            token = token.parent
        name = STANDARD_TYPES.get(token, "")
        escaped = Markup.escape(visible(value.rstrip("\n")))
        spans.append(Markup('<span class="t-{}">{}</span>').format(name[:1], escaped) if name[:1] in "kscmo" and name else escaped)
    return Markup("").join(spans)


@functools.cache
def _lexer() -> "Lexer":
    from pygments.lexers import PythonLexer

    return PythonLexer(stripnl=False, ensurenl=False)
