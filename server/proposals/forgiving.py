"""Finds an edit's search text where it can only mean one place, although it is not there letter by letter.

Forgives line endings, blanks at the ends of lines, and the line numbers that refusals and other tools put in front of lines. It says
what it forgave. Any other difference, and a text that then fits in two places, is left to be refused.
"""

import re
from bisect import bisect_right
from typing import NamedTuple

_NUMBERED = re.compile(r"[ \t]*(\d{1,7})(?: ?[|] ?|\t|→)(.*)", re.DOTALL)
_BEFORE_NEWLINE, _AT_ANY_END = re.compile(r"[ \t\r]+(?=\n)"), re.compile(r"[ \t\r]+(?=\n|\Z)")

NUMBERS, BLANKS = "line numbers in front of its lines", "blanks or line endings at the ends of its lines"


class Match(NamedTuple):
    """Where a search text is in a file: what to replace, by what, and what was forgiven."""

    start: int
    end: int
    replace: str
    forgiven: tuple[str, ...]


def find(text: str, search: str, replace: str) -> Match | None:
    """Return the one place that a search text can mean, or None where there is none, or more than one.

    Args:
        text: of the file.
        search: as an agent sent it; it is not in the text as it stands.
        replace: what goes there.
    """
    wanted, new = search, replace
    numbers: tuple[str, ...] = ()
    if (bare := _without_numbers(search, in_order=True)) is not None:
        wanted, numbers = bare, (NUMBERS,)
        new = _without_numbers(replace) or replace
        if new == replace and any(map(_NUMBERED.fullmatch, replace.split("\n"))):
            return None  # some of its lines have numbers
        if text.count(wanted) == 1:
            at = text.index(wanted)
            return Match(at, at + len(wanted), new, numbers)
    place = _blanks_aside(text, wanted)
    return Match(*place, new, (*numbers, BLANKS)) if place else None


def _without_numbers(text: str, in_order: bool = False) -> str | None:
    """Return a text without the line numbers in front of all its lines, or None where one has none, or they don't count up `in_order`."""
    lines = text.split("\n")
    end = lines.pop() if len(lines) > 1 and not lines[-1] else None
    numbered = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    numbers = [int(match[1]) for match in numbered]
    if len(numbered) < len(lines) or (in_order and numbers != list(range(numbers[0], numbers[0] + len(numbers)))):
        return None
    return "\n".join([match[2] for match in numbered] + ([] if end is None else [end]))


def _blanks_aside(text: str, search: str) -> tuple[int, int] | None:
    """Return start and end of the one place that is like a search text, blanks at the ends of lines aside."""
    pieces, starts, length, done = list[str](), list[int](), 0, 0  # of the text without those blanks
    originals = list[int]()
    for match in [*_AT_ANY_END.finditer(text), None]:
        pieces.append(text[done : match.start() if match else len(text)])
        starts.append(length)
        originals.append(done)
        length, done = length + len(pieces[-1]), match.end() if match else done
    plain = "".join(pieces)

    def original(at: int) -> int:
        piece = bisect_right(starts, at) - 1
        return originals[piece] + at - starts[piece]

    for wanted in dict.fromkeys((_BEFORE_NEWLINE.sub("", search), _AT_ANY_END.sub("", search))):
        if not wanted.strip() or plain.count(wanted) != 1:
            continue
        start = plain.index(wanted)
        end = start + len(wanted)
        ends_line = plain[end : end + 1] in ("", "\n") and not wanted.endswith("\n")
        if ends_line or wanted == _BEFORE_NEWLINE.sub("", search):
            return original(start), original(end) if ends_line else original(end - 1) + 1
    return None
