"""Cleans text that agents' code wrote, where a result takes it up and wherever it is shown (fixed)."""

import re
import unicodedata

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_LINE_ENDS = str.maketrans({"\r": "\n", "\u2028": "\n", "\u2029": "\n"})
# Letters, marks and symbols that show as nothing: variation selectors, joiners, fillers, the blank of Braille and of notes.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U00016fe4\U0001d159\U000e0100-\U000e01ef]")


def clean(text: str) -> str:
    """Return the text without terminal escapes, control characters and invisible marks; each kind of line end becomes a plain one."""
    if text.isprintable() and text.isascii():
        return text
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").translate(_LINE_ENDS)
    return text.translate(dict.fromkeys(map(ord, invisible(text))))


def one_line(text: str, limit: int) -> str:
    """Return the text cleaned, in one line of at most `limit` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def invisible(text: str) -> set[str]:
    """Return the characters of the text that nobody sees, or that steer what shows it."""
    return {c for c in set(text) if c not in "\n\t" and (not (c.isprintable() or unicodedata.category(c) == "Zs") or _BLANK.match(c))}
