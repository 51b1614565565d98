"""Applies patches as agents write them to files in memory: unified diffs, search/replace edits and whole texts.

Promises: a patch applies as a whole or not at all, touches editable paths only, and a refusal says which hunk or edit failed and
shows the file's lines there. Forgives what language models get wrong: line numbers and counts in hunk headers, missing a/ b/
prefixes, code fences, an `*** Begin Patch` envelope, trailing blanks, CRLF, line numbers in front of an edit's lines; it says what it
forgave. Files may be deleted and renamed. Gives up: copies, links and binary patches are refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals import envelope, forgiving
from autoresearch_mcp.server.proposals.placement import Effort, FileLines, excerpt, nearest, split_lines
from autoresearch_mcp.server.proposals.unified_diff import NOTHING, FileDiff, Hunk, parse

MAX_PATCH = 1024 * 1024
MAX_PARTS = 1_000  # edits or files
_PREFIX = re.compile(r"^[abciow]/")  # as git writes them, also for index, work tree, commit and object

Read = Callable[[str], str | None]  # the text of an editable path at the base; None where there is no such file


class Change(NamedTuple):
    """A change to some files, as `apply` takes it: exactly one of the three is given."""

    diff: str | None = None
    edits: Sequence[Mapping[str, str]] | None = None
    files: Mapping[str, str | None] | None = None


class Applied(NamedTuple):
    """The new text of every path that a change touches, None where it deletes the file; and what was forgiven, in sentences."""

    texts: dict[str, str | None]
    notes: list[str]


def apply(
    read: Read,
    editable: Editable,
    diff: str | None = None,
    edits: Sequence[Mapping[str, str]] | None = None,
    files: Mapping[str, str | None] | None = None,
) -> Applied:
    """Apply a change, given in exactly one of three forms.

    Args:
        read: returns the text of an editable path at the base.
        editable: the paths that the change may touch.
        diff: a unified diff.
        edits: mappings with `path`, `search`, `replace`, applied in order; each search text must occur exactly once. Blanks at the
            ends of lines, line endings and line numbers in front of lines may differ.
        files: whole new texts by path; None deletes the file.

    Raises:
        LabError: `bad_patch`, `too_large`, `not_editable`, `does_not_apply`.
    """
    if [diff, edits, files].count(None) != 2:
        raise LabError("Send the change in exactly one form: diff, edits or files.", "bad_patch")
    size = (
        len(diff or "")
        + sum(len(v) for edit in edits or () for v in edit.values())
        + sum(len(path) + len(text or "") for path, text in (files or {}).items())
    )
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
    before = {path: _whatever(read, editable.check(path)) for path in files or {}}
    texts = {path: None if text is None else _with_endings_of(before[path], text) for path, text in (files or {}).items()}
    if missing := [path for path, text in texts.items() if text is None and before[path] is None]:
        raise LabError(f"The change deletes {missing[0]}, which does not exist at this commit.", "does_not_apply")
    return Applied(texts, [])


def _whatever(read: Read, path: str) -> str | None:
    """Return what is there, as far as it is text: a file that is none may be replaced or deleted as a whole."""
    try:
        return read(path)
    except LabError as error:
        if error.code != "bad_encoding":
            raise
        return ""


def _ending(text: str) -> str:
    """Return the line ending that most lines of a text have."""
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def _with_endings_of(old: str | None, new: str) -> str:
    return new if old is None else _with_ending(new, _ending(old))


def _with_ending(text: str, ending: str) -> str:
    return text.replace("\r\n", "\n").replace("\n", ending)


def _apply_edits(read: Read, editable: Editable, edits: Sequence[Mapping[str, str]]) -> Applied:
    texts: dict[str, str | None] = {}
    endings: dict[str, str] = {}
    notes: list[str] = []
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
        if path not in endings:
            endings[path] = _ending(text)
        search, replace = edit["search"], edit["replace"]
        at = text.find(search)
        if at < 0:
            search = _with_ending(search, endings[path])
            at = text.find(search)
        end = at + len(search)
        if at < 0 and (match := forgiving.find(text, search, replace)):
            at, end, replace, forgiven = match
            notes.append(f"{name} applied without {' and '.join(forgiven)}.")
        elif at < 0 or text.find(search, end) >= 0:
            raise LabError(f"{name} of {path}: " + _miscount(text, search), "does_not_apply")
        texts[path] = text[:at] + _with_ending(replace, endings[path]) + text[end:]
    return Applied(texts, notes)


def _miscount(text: str, search: str) -> str:
    """Say how often, and where, the search text occurs instead of once."""
    if count := text.count(search):
        at, numbers = -1, []
        for _ in range(min(count, 5)):
            at = text.index(search, at + 1)
            numbers.append(str(text.count("\n", 0, at) + 1))
        places = ", ".join(numbers)
        return f"the search text occurs {count} times, first at lines {places}; it must occur exactly once. Add lines around it. Nothing was kept."
    lines, wanted = split_lines(text), split_lines(search)
    return (
        f"the search text does not occur (0 times; it must occur exactly once, indentation included). "
        f"The file's nearest lines:\n{excerpt(lines, nearest(lines, wanted, None), len(wanted))}\nNothing was kept."
    )


def _apply_diff(read: Read, editable: Editable, diff: str) -> Applied:
    texts: dict[str, str | None] = {}
    notes: list[str] = []
    if envelope.is_one(diff):
        diff = envelope.opened(diff)
        notes.append("The diff was taken out of its `*** Begin Patch` envelope.")
    parts: dict[str, FileDiff] = {}
    for part in parse(diff, editable):
        old, new = _paths(part, editable)
        whole = parts.setdefault(old if new == NOTHING else new, FileDiff(old, new))
        whole.hunks += part.hunks
        whole.whole |= part.whole
        whole.mode |= part.mode
    effort = Effort()
    for part in parts.values():
        if part.hunks or part.whole:
            _apply_part(read, part, effort, texts, notes)
    if not texts:
        raise LabError("No hunk was found in the diff. A unified diff has ---, +++ and @@ lines; or send edits or files.", "bad_patch")
    return Applied(texts, notes)


def _apply_part(read: Read, part: FileDiff, effort: Effort, texts: dict[str, str | None], notes: list[str]) -> None:
    """Apply what a diff does to one file, and add its texts and notes.

    Raises:
        LabError: `does_not_apply`.
    """
    old, new = part.old, part.new
    if new not in (old, NOTHING) and read(new) is not None:
        makes = "makes" if old == NOTHING else f"renames {old} to"
        raise LabError(
            f"The diff {makes} {new} as a new file, but it exists at this commit. Diff against the existing text.", "does_not_apply"
        )
    text = None if old == NOTHING else read(old)
    if text is None and old != NOTHING and (old != new or any(hunk.old for hunk in part.hunks)):
        raise LabError(f"The diff changes {old}, which does not exist at this commit.", "does_not_apply")
    file = FileLines(old if new == NOTHING else new, [line.removesuffix("\r") for line in split_lines(text or "")], effort)
    after = _apply_hunks(file, text or "", part.hunks)
    notes += [f"{hunk} applied without {forgiving.BLANKS}." for hunk in file.forgiven]
    notes += [f"The mode that the diff gives {file.path} was left out."] if part.mode else []
    if new != NOTHING:
        texts[new] = after
    elif part.hunks and after.strip():
        raise LabError(f"The diff deletes {old}, but its hunks leave lines of it. Nothing was kept.", "does_not_apply")
    if old not in (new, NOTHING):
        texts[old] = None


def _paths(part: FileDiff, editable: Editable) -> tuple[str, str]:
    """Return the paths of a file before and after a part of a diff, without git's prefixes.

    Raises:
        LabError: `not_editable`; `bad_patch` where they differ and the diff does not say that it renames the file.
    """
    old, new = (path if path in editable or path == NOTHING else _PREFIX.sub("", path) for path in (part.old, part.new))
    old = new if _PREFIX.sub("", part.old) == new else old
    for path in {old, new} - {NOTHING}:
        editable.check(path)
    if old not in (new, NOTHING) and new != NOTHING and not part.whole:
        raise LabError(
            f"The diff has {old[:200]!r} before and {new[:200]!r} after. Git writes `rename from` and `rename to` where it renames a file; "
            "files takes the new path with the text, and the old one with null.",
            "bad_patch",
        )
    return old, new


def _apply_hunks(file: FileLines, text: str, hunks: list[Hunk]) -> str:
    path, lines, ending = file.path, file.lines, _ending(text)
    ends = [line[len(line.removesuffix("\r")) :] + "\n" for line in text.split("\n")[: len(lines)]]
    if lines and not text.endswith("\n"):
        ends[-1] = ""
    places = []
    for number, hunk in enumerate(hunks, 1):
        places.append((file.place(hunk, f"Hunk {number} of {len(hunks)} ({hunk.header}) of {path}"), number, hunk))
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
