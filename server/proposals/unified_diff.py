"""Reads unified diffs as agents write them: which files they change, in which hunks.

Forgives what language models get wrong: line numbers and counts in hunk headers, missing a/ b/ prefixes, code fences, CRLF, colours.
Takes files that are made, deleted or renamed as git writes it, and its quoted paths. Refuses copies, links and binary patches, and a
change of nothing but modes; beside a change of text a mode is left as it is.
"""

import re
from dataclasses import dataclass, field

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError

MAX_LINES = 50_000  # of a diff
MAX_HUNKS = 1_000  # of a diff

_HEADER = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_METADATA = ("diff --git ", "index ", "new file mode 100644", "deleted file mode ", "```", "\\ ", "similarity ", "dissimilarity ")
NOTHING = "/dev/null"  # the path of a file that isn't there
_GIT = re.compile(r"diff --git (?:[abciow]/)?(?P<path>.+) (?:[abciow]/)?(?P=path)")
_MADE_OR_GONE = re.compile(r"(new|deleted) file mode ")
_SIGNATURE = "-- "  # ends what git format-patch writes
_REFUSED = (
    (("copy from ", "copy to "), "copies a file"),
    (("GIT binary patch", "Binary files "), "is binary"),
    (("new file mode 120000", "new mode 120000"), "makes a symbolic link"),
    (("new file mode 160000", "Subproject commit"), "changes a submodule"),
    (("old mode ", "new mode "), "changes a file's mode"),
)
_MODE = re.compile(r"(?:old|new) mode 100(?:644|755)")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[mK]")
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)")
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"v": b"\v", b"f": b"\f"}


@dataclass
class Hunk:
    """One hunk of a diff: lines to keep, to remove and to add."""

    header: str
    start: int | None  # first line that it replaces, counted from 1, as its header claims
    is_insertion: bool  # the header says that it replaces no line
    lines: list[tuple[str, str]] = field(default_factory=list)  # (" ", "+" or "-", text)
    open_end: bool = False  # the new text ends without a newline

    @property
    def old(self) -> list[str]:
        """The lines that the file must have: those to keep and those to remove."""
        return [text for sign, text in self.lines if sign != "+"]


@dataclass
class FileDiff:
    """The part of a diff that changes one file, with both paths as they stand in it.

    Attributes:
        whole: the diff says in so many words that the file is made, deleted or renamed, so it may have no hunk.
        mode: the diff changes its mode too, or makes it executable.
    """

    old: str
    new: str
    hunks: list[Hunk] = field(default_factory=list)
    whole: bool = False
    mode: bool = False


def parse(diff: str, editable: Editable) -> list[FileDiff]:
    """Split a diff into files and hunks.

    Args:
        diff: the whole text. It may stand in a code fence or in a mail of `git format-patch`.
        editable: names the file of hunks without a file header, where only one file is editable.

    Raises:
        LabError: `too_large`, or `bad_patch` for text that is no hunk and for what may not be changed.
    """
    lines = _unfenced([line.removesuffix("\r") for line in _COLOUR.sub("", diff).removeprefix("\ufeff").rstrip("\r\n").split("\n")])
    if len(lines) > MAX_LINES:
        raise LabError(f"The diff has {len(lines):,} lines; the cap is {MAX_LINES:,}. Send a smaller change, or files.", "too_large")
    parts: list[FileDiff] = []
    at = hunks = 0
    mode = False
    while at < len(lines):
        line = lines[at]
        following = lines[at + 1] if at + 1 < len(lines) else ""
        if line.startswith("--- ") and following.startswith("+++ "):
            old, new = _path(line), _path(following)
            if not (parts and parts[-1].whole and not parts[-1].hunks and _same(parts[-1], old, new)):
                parts.append(FileDiff(old, new, mode=mode))
                mode = False
            at += 2
        elif line.startswith("rename from ") and following.startswith("rename to "):
            old, new = _unquoted(line.removeprefix("rename from ")), _unquoted(following.removeprefix("rename to "))
            parts.append(FileDiff(old, new, whole=True, mode=mode))
            mode = False
            at += 2
        elif (match := _MADE_OR_GONE.match(line)) and (path := _both(lines[at - 1] if at else "")):
            _refuse(line)
            old, new = (path, NOTHING) if match[1] == "deleted" else (NOTHING, path)
            parts.append(FileDiff(old, new, whole=True, mode=line == "new file mode 100755"))
            at += 1
        elif line.startswith("@@"):
            if not parts:
                parts.append(FileDiff(editable.only or "", editable.only or ""))
            hunk, at = _parse_hunk(lines, at)
            parts[-1].hunks.append(hunk)
            hunks += 1
        elif parts and parts[-1].hunks and line == _SIGNATURE:
            break
        elif _MODE.fullmatch(line) and _goes_on(lines, at):
            mode = True
            at += 1
        else:
            _refuse(line)
            if parts and parts[-1].hunks and line.strip() and not line.startswith(_METADATA):
                raise LabError(
                    f"Line {at + 1} of the diff is not part of a hunk: `{line[:160]}`. In a hunk every line begins with a space, + or -.",
                    "bad_patch",
                )
            at += 1
        if hunks > MAX_HUNKS:
            raise LabError(f"The diff has more than {MAX_HUNKS:,} hunks. Send a smaller change, or files.", "too_large")
    return parts


def _goes_on(lines: list[str], at: int) -> bool:
    """Return whether the file at this line of a diff has more than another mode: hunks, or another name."""
    for line in lines[at + 1 :]:
        if line.startswith("diff --git "):
            break
        if line.startswith(("@@", "rename from ")):
            return True
    return False


def _path(line: str) -> str:
    return _unquoted(line[4:].split("\t")[0].strip()).removeprefix("./")


def _unquoted(path: str) -> str:
    """Return a path as it is: git puts one in quotes that has other letters than ASCII's, and writes their bytes in octal."""
    if len(path) < 2 or not (path[0] == path[-1] == '"'):
        return path

    def byte(match: re.Match[bytes]) -> bytes:
        text = match[1]
        return bytes([int(text, 8) & 255]) if text.isdigit() else _ESCAPES.get(text, text)

    return _ESCAPED.sub(byte, path[1:-1].encode("utf-8", "surrogatepass")).decode("utf-8", "replace")


def _both(line: str) -> str:
    """Return the path in a line `diff --git a/PATH b/PATH`; empty where it has no such form."""
    words = line.removeprefix("diff --git ").split('" "')
    if len(words) == 2 and line.endswith('"'):
        old, new = _unquoted(f'{words[0]}"'), _unquoted(f'"{words[1]}')
        line = f"diff --git {old} {new}"
    match = _GIT.fullmatch(line)
    return match["path"] if match else ""


def _same(part: FileDiff, old: str, new: str) -> bool:
    """Return whether the lines `---` and `+++` name what git's header before them named."""
    return all(theirs == ours or theirs[2:] == ours for ours, theirs in ((part.old, old), (part.new, new)))


def _unfenced(lines: list[str]) -> list[str]:
    """Return the lines of a diff without what follows the code fence that it stands in."""
    if (opened := next((at for at, line in enumerate(lines) if line.startswith("```")), None)) is None:
        return lines
    if any(line.startswith(("@@", "--- ", "diff --git ")) for line in lines[:opened]):
        return lines
    closed = next((at for at, line in enumerate(lines) if at > opened and line.strip() == "```"), len(lines))
    return lines[:closed]


def _refuse(line: str) -> None:
    for starts, does in _REFUSED:
        if line.startswith(starts):
            raise LabError(f"The diff {does} (`{line[:160]}`). Only the text of editable files can be changed.", "bad_patch")


def _parse_hunk(lines: list[str], at: int) -> tuple[Hunk, int]:
    """Return the hunk whose header is at `at`, and the index behind it.

    The counts in its header decide where it ends if they lead to a boundary; else the next boundary does.
    """
    match = _HEADER.match(lines[at])
    hunk = Hunk(lines[at][:120], None, False)
    end = at + 1
    if match:
        old, new = (int(count) if count else 1 for count in match.group(2, 4))
        hunk.start, hunk.is_insertion = int(match[1]), old == 0
        end = _counted_end(lines, at + 1, old, new)
    if not match or not _is_boundary(lines, end):
        end = at + 1
        while not _is_boundary(lines, end):
            end += 1
        while end > at + 1 and not lines[end - 1]:
            end -= 1
    for line in lines[at + 1 : end]:
        if line.startswith("\\"):
            hunk.open_end = bool(hunk.lines) and hunk.lines[-1][0] != "-"
        else:
            hunk.lines.append((line[:1] or " ", line[1:]))
            hunk.open_end = hunk.open_end and line.startswith("-")
    return hunk, end


def _counted_end(lines: list[str], at: int, old: int, new: int) -> int:
    """Return the index behind a hunk with these counts, or -1 where the lines don't add up to them."""
    while at < len(lines) and (old > 0 or new > 0 or lines[at].startswith("\\")):
        sign = lines[at][:1] or " "
        if sign not in " +-\\":
            break
        old -= sign in " -"
        new -= sign in " +"
        at += 1
    return at if old == new == 0 else -1


def _is_boundary(lines: list[str], at: int) -> bool:
    """Return whether a hunk ends before the line `at`. The index -1 is no boundary."""
    if at < 0:
        return False
    rest = lines[at : at + 3]
    if not rest or rest[0].startswith(("@@", "diff --git ")):
        return True
    if rest[0] == _SIGNATURE and at >= len(lines) - 3:
        return True
    if rest[0].startswith("--- ") and len(rest) > 1 and rest[1].startswith("+++ "):
        return True
    return rest[0][:1] not in (" ", "+", "-", "\\", "")
