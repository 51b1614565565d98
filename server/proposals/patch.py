"""Patches as agents write them: unified diffs, search/replace edits and whole texts, applied to files in memory.

Promises: a patch applies as a whole or not at all, touches editable paths only, and a refusal says which hunk or edit failed and
shows the file's lines there. Forgives what language models get wrong: line numbers and counts in hunk headers, missing a/ b/
prefixes, code fences, trailing blanks in context, CRLF. Gives up: renames, deletes, modes, links and binary patches are refused.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError

MAX_PATCH = 1024 * 1024
MAX_LINES = 50_000  # of a diff
MAX_PARTS = 1_000  # hunks, edits or files

Read = Callable[[str], str | None]  # the text of an editable path at the base; None where there is no such file

_HEADER = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_METADATA = ("diff --git ", "index ", "new file mode 100644", "```", "\\ ", "similarity ", "dissimilarity ")
_SIGNATURE = "-- "  # ends what git format-patch writes
_REFUSED = (
    (("rename ", "copy "), "renames or copies a file"),
    (("deleted file mode ", "+++ /dev/null"), "deletes a file"),
    (("GIT binary patch", "Binary files "), "is binary"),
    (("new file mode 120000", "new mode 120000"), "makes a symbolic link"),
    (("new file mode 160000", "Subproject commit"), "changes a submodule"),
    (("old mode ", "new mode ", "new file mode 100755"), "changes a file's mode"),
)


def apply(
    read: Read,
    editable: Editable,
    diff: str | None = None,
    edits: Sequence[Mapping[str, str]] | None = None,
    files: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The new text of every path that the change touches; the change is given in exactly one of the three forms.

    Args:
        diff: a unified diff.
        edits: mappings with `path`, `search`, `replace`, applied in order; each search text must occur exactly once.
        files: whole new texts by path.

    Raises:
        LabError: `bad_patch`, `too_large`, `not_editable`, `does_not_apply`.
    """
    if [diff, edits, files].count(None) != 2:
        raise LabError("Send the change in exactly one form: diff, edits or files.", "bad_patch")
    size = len(diff or "") + sum(len(v) for edit in edits or () for v in edit.values()) + sum(len(text) for text in (files or {}).values())
    if size > MAX_PATCH:
        raise LabError(f"The patch has {size:,} characters; the cap is {MAX_PATCH:,}. Send a smaller change.", "too_large")
    if not size or not (diff or edits or files) or (diff is not None and not diff.strip()):
        raise LabError("The patch is empty. Send a unified diff, edits or a file's new text.", "bad_patch")
    if max(len(edits or ()), len(files or ())) > MAX_PARTS:
        raise LabError(f"The patch has more than {MAX_PARTS:,} parts. Send a smaller change.", "too_large")
    if diff is not None:
        return _apply_diff(read, editable, diff)
    if edits is not None:
        return _apply_edits(read, editable, edits)
    return {editable.check(path): _with_endings_of(read(path), text) for path, text in (files or {}).items()}


def _ending(text: str) -> str:
    """The line ending that most of a text's lines have."""
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def _with_endings_of(old: str | None, new: str) -> str:
    return new if old is None else new.replace("\r\n", "\n").replace("\n", _ending(old))


def _apply_edits(read: Read, editable: Editable, edits: Sequence[Mapping[str, str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, edit in enumerate(edits, 1):
        name = f"Edit {number} of {len(edits)}"
        if unknown := set(edit) - {"path", "search", "replace"}:
            raise LabError(f"{name} has the unknown key {min(unknown)[:80]!r}; its keys are path, search and replace.", "bad_patch")
        path = editable.check(edit.get("path") or editable.only or "")
        if "search" not in edit or "replace" not in edit or not edit["search"]:
            raise LabError(
                f"{name} needs a search text that is not empty, and a replace text. Use files to write a whole file.", "bad_patch"
            )
        text = texts[path] if path in texts else read(path)
        if text is None:
            raise LabError(f"{name}: {path} does not exist at this commit. Use files to write a new file.", "does_not_apply")
        search, replace = edit["search"], _with_endings_of(text, edit["replace"])
        if search not in text:
            search = _with_endings_of(text, search)
        if (count := text.count(search)) != 1:
            raise LabError(f"{name} of {path}: " + _miscount(text, search, count), "does_not_apply")
        texts[path] = text.replace(search, replace)
    return texts


def _miscount(text: str, search: str, count: int) -> str:
    if count:
        at, numbers = -1, []
        for _ in range(min(count, 5)):
            at = text.index(search, at + 1)
            numbers.append(str(text.count("\n", 0, at) + 1))
        places = ", ".join(numbers)
        return f"the search text occurs {count} times, first at lines {places}; it must occur exactly once. Add lines around it. Nothing was kept."
    lines, wanted = _split(text), _split(search)
    return (
        f"the search text does not occur (0 times; it must occur exactly once, blanks included). "
        f"The file's nearest lines:\n{_excerpt(lines, _nearest(lines, wanted, None), len(wanted))}\nNothing was kept."
    )


@dataclass
class Hunk:
    header: str
    start: int | None  # first line that it replaces, counted from 1, as its header claims
    is_insertion: bool  # the header says that it replaces no line
    lines: list[tuple[str, str]] = field(default_factory=list)  # (" ", "+" or "-", text)
    open_end: bool = False  # the new text ends without a newline

    @property
    def old(self) -> list[str]:
        return [text for sign, text in self.lines if sign != "+"]


@dataclass
class FileDiff:
    old: str
    new: str
    hunks: list[Hunk] = field(default_factory=list)


def _apply_diff(read: Read, editable: Editable, diff: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    hunks: dict[str, list[Hunk]] = {}
    for part in _parse(diff, editable):
        path = _target(part, editable)
        if part.old == "/dev/null" and read(path) is not None:
            raise LabError(
                f"The diff makes {path} as a new file, but it exists at this commit. Diff against the existing text.", "does_not_apply"
            )
        hunks.setdefault(path, []).extend(part.hunks)
    if not any(hunks.values()):
        raise LabError("No hunk was found in the diff. A unified diff has ---, +++ and @@ lines; or send edits or files.", "bad_patch")
    for path, parts in hunks.items():
        text = read(path)
        if text is None and any(hunk.old for hunk in parts):
            raise LabError(f"The diff changes {path}, which does not exist at this commit.", "does_not_apply")
        texts[path] = _apply_hunks(path, text or "", parts)
    return texts


def _target(part: FileDiff, editable: Editable) -> str:
    """The path that a part of a diff changes; git's a/ and b/ are taken off where the path is not editable as it stands."""
    new = part.new if part.new in editable else part.new.removeprefix("b/")
    old = part.old if part.old == new else part.old.removeprefix("a/")
    editable.check(new)
    if old not in (new, "/dev/null"):
        raise LabError(f"The diff renames {old[:200]!r} to {new!r}. Renames are refused; change files where they are.", "bad_patch")
    return new


def _parse(diff: str, editable: Editable) -> list[FileDiff]:
    lines = [line.removesuffix("\r") for line in diff.rstrip("\r\n").split("\n")]
    if len(lines) > MAX_LINES:
        raise LabError(f"The diff has {len(lines):,} lines; the cap is {MAX_LINES:,}. Send a smaller change, or files.", "too_large")
    parts: list[FileDiff] = []
    at = hunks = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("--- ") and lines[at + 1 : at + 2] and lines[at + 1].startswith("+++ "):
            _refuse(lines[at + 1])
            parts.append(FileDiff(_path(line), _path(lines[at + 1])))
            at += 2
        elif line.startswith("@@"):
            if not parts:
                parts.append(FileDiff(editable.only or "", editable.only or ""))
            hunk, at = _parse_hunk(lines, at)
            parts[-1].hunks.append(hunk)
            hunks += 1
        elif parts and parts[-1].hunks and line == _SIGNATURE:
            break
        else:
            _refuse(line)
            if parts and parts[-1].hunks and line.strip() and not line.startswith(_METADATA):
                raise LabError(
                    f"Line {at + 1} of the diff is not part of a hunk: `{line[:160]}`. In a hunk every line begins with a space, + or -.",
                    "bad_patch",
                )
            at += 1
        if hunks > MAX_PARTS:
            raise LabError(f"The diff has more than {MAX_PARTS:,} hunks. Send a smaller change, or files.", "too_large")
    return parts


def _path(line: str) -> str:
    return line[4:].split("\t")[0].strip()


def _refuse(line: str) -> None:
    for starts, does in _REFUSED:
        if line.startswith(starts):
            raise LabError(f"The diff {does} (`{line[:160]}`). Only the text of editable files can be changed.", "bad_patch")


def _parse_hunk(lines: list[str], at: int) -> tuple[Hunk, int]:
    """The hunk whose header is at `at`, and where it ends: by its counts if they lead to a boundary, else at the next boundary."""
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
    while at < len(lines) and (old > 0 or new > 0 or lines[at].startswith("\\")):
        sign = lines[at][:1] or " "
        if sign not in " +-\\":
            break
        old -= sign in " -"
        new -= sign in " +"
        at += 1
    return at if old == new == 0 else -1


def _is_boundary(lines: list[str], at: int) -> bool:
    """Whether no hunk goes on at `at`; -1 is none."""
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


def _apply_hunks(path: str, text: str, hunks: list[Hunk]) -> str:
    lines, ending = _split(text), _ending(text)
    ends = [line[len(line.removesuffix("\r")) :] + "\n" for line in text.split("\n")[: len(lines)]]
    if lines and not text.endswith("\n"):
        ends[-1] = ""
    lines = [line.removesuffix("\r") for line in lines]
    places = []
    for number, hunk in enumerate(hunks, 1):
        places.append((_place(lines, hunk, f"Hunk {number} of {len(hunks)} ({hunk.header}) of {path}"), number, hunk))
    out: list[str] = []
    done = previous = 0
    for start, number, hunk in sorted(places, key=lambda place: place[:2]):
        if start < done:
            raise LabError(f"Hunks {previous} and {number} of {path} overlap at line {start + 1}. Send them as one hunk.", "does_not_apply")
        out += [line + end for line, end in zip(lines[done:start], ends[done:start], strict=True)]
        done, previous = start, number
        for sign, new in hunk.lines:
            if sign == "+":
                if out and not out[-1].endswith("\n"):
                    out[-1] += ending
                out.append(new + ending)
            else:
                if sign == " ":
                    out.append(lines[done] + ends[done])
                done += 1
        if hunk.open_end and done == len(lines) and out:
            out[-1] = out[-1].removesuffix(ending)
    return "".join(out) + "".join(line + end for line, end in zip(lines[done:], ends[done:], strict=True))


def _place(lines: list[str], hunk: Hunk, name: str) -> int:
    """The index of the first line that a hunk replaces: where its header says, else the only other place where its lines occur."""
    old = hunk.old
    if not old:
        if not lines or (hunk.is_insertion and hunk.start is not None and hunk.start <= len(lines)):
            return hunk.start or 0
        raise LabError(f"{name} has no line of the file in it, so its place is unknown. Add some lines of context.", "does_not_apply")
    for form in (str, str.rstrip):
        have, want = [form(line) for line in lines], [form(line) for line in old]
        if hunk.start and have[hunk.start - 1 : hunk.start - 1 + len(want)] == want:
            return hunk.start - 1
        found = _find(have, want)
        if len(found) == 1:
            return found[0]
        if found:
            raise LabError(
                f"{name} fits at lines {', '.join(str(at + 1) for at in found)} and more than one is too many. Add lines of context.",
                "does_not_apply",
            )
    at = _nearest(lines, old, hunk.start)
    raise LabError(
        f"{name} does not apply: {_mismatch(lines, old, at)} The file's lines there:\n{_excerpt(lines, at, len(old))}\nNothing was kept.",
        "does_not_apply",
    )


def _find(have: list[str], want: list[str]) -> list[int]:
    """Where `want` occurs as a run of lines, at most 5 places."""
    text, run = "\n".join(["", *have, ""]), "\n".join(["", *want, ""])
    found: list[int] = []
    at = text.find(run)
    while at >= 0 and len(found) < 5:
        found.append(text.count("\n", 0, at))
        at = text.find(run, at + 1)
    return found


def _split(text: str) -> list[str]:
    lines = text.split("\n")
    return lines[:-1] if not lines[-1] else lines


def _nearest(lines: list[str], want: list[str], start: int | None) -> int:
    """The index where `want` fits best, blanks aside: by lines in common, else by the likest line, else where it was said to be."""
    where: dict[str, list[int]] = {}
    for at, line in enumerate(lines):
        if line.strip():
            where.setdefault(line.strip(), []).append(at)
    votes = Counter(at - i for i, line in enumerate(want[:200]) for at in where.get(line.strip(), [])[:20])
    if votes:
        best, _ = max(votes.items(), key=lambda item: (item[1], -abs(item[0] - (start or 1) + 1)))
        return max(0, best)
    first = next((i for i, line in enumerate(want) if line.strip()), 0)
    like = get_close_matches(want[first].strip()[:120], [line[:120] for line in list(where)[:3_000]], n=1) if want else []
    if like:
        at = next(places[0] for line, places in where.items() if line.startswith(like[0]))
        return max(0, at - first)
    return max(0, min(start or 1, len(lines)) - 1)


def _mismatch(lines: list[str], want: list[str], at: int) -> str:
    for number, line in enumerate(want, at):
        if number >= len(lines):
            return f"the file ends at line {len(lines)}, but the hunk goes on with `{line[:160]}`."
        if lines[number].rstrip() != line.rstrip():
            return f"line {number + 1} of the file is `{lines[number][:160]}`, but the hunk expects `{line[:160]}`."
    return "its lines do not follow each other in the file."


def _excerpt(lines: list[str], at: int, length: int) -> str:
    first, last = max(0, at - 3), min(len(lines), at + min(length, 20) + 3)
    return "\n".join(f"{number + 1:5} | {lines[number][:160].rstrip()}" for number in range(first, last)) or "(the file is empty)"
