"""Finds the place of a hunk in a file, and shows the file's lines where a change does not fit.

Promises: one file is indexed once, however many hunks it has, and the work is capped: see `MAX_STEPS`.
"""

from collections import Counter
from difflib import SequenceMatcher
from heapq import nlargest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.unified_diff import Hunk

MAX_STEPS = 2_000_000  # comparisons of lines for one patch: under a second
_MOST_PLACES = 5  # named in a refusal
_MOST_LINES, _MOST_CHARS = 3_000, 120  # of a file, and of a line, that are looked at for the likest line
_MOST_COMPARED = 20  # lines, letter by letter: milliseconds each at the worst
_LIKE = 0.5  # share of a line's text that the likest line must hold


class Effort:
    """Counts the comparisons that one patch takes, over all of its files."""

    def __init__(self) -> None:
        self.steps = 0

    def spend(self, name: str, path: str) -> None:
        """Count one comparison.

        Raises:
            LabError: `too_large` beyond `MAX_STEPS`.
        """
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise LabError(
                f"{name}: its lines, or those of hunks before it, occur so often in {path} that finding their places takes too long. "
                "Correct the line numbers in the hunk headers, or send edits or files. Nothing was kept.",
                "too_large",
            )


class FileLines:
    """The lines of one file, with an index of where each occurs.

    Args:
        path: of the file, for refusals.
        lines: its text, without line endings.
        effort: counts the work; shared by the files of a patch.
    """

    def __init__(self, path: str, lines: list[str], effort: Effort) -> None:
        self.path = path
        self.lines = lines
        self._effort = effort
        self._forms = [_Form(lines)]
        self.forgiven: list[str] = []  # names of hunks that fit without trailing blanks only

    def place(self, hunk: Hunk, name: str) -> int:
        """Return the index of the first line that a hunk replaces.

        It is where the header says, else the only other place where the hunk's lines occur. Trailing blanks count only if they have to.

        Args:
            hunk: one hunk of this file.
            name: what a refusal calls the hunk.

        Raises:
            LabError: `does_not_apply`, with the file's lines; `too_large` where the search would take more than `MAX_STEPS`.
        """
        old = hunk.old
        if not old:
            if not self.lines or (hunk.is_insertion and hunk.start is not None and hunk.start <= len(self.lines)):
                return hunk.start or 0
            raise LabError(f"{name} has no line of the file in it, so its place is unknown. Add some lines of context.", "does_not_apply")
        for number, want in ((0, old), (1, [line.rstrip() for line in old])):
            form = self._form(number)
            is_there = hunk.start and form.lines[hunk.start - 1 : hunk.start - 1 + len(want)] == want
            places = [hunk.start - 1] if hunk.start and is_there else self._find(form, want, name)
            if len(places) == 1:
                self.forgiven += [name] * number
                return places[0]
            if places:
                numbers = ", ".join(str(at + 1) for at in places)
                raise LabError(f"{name} fits at lines {numbers} and more than one is too many. Add lines of context.", "does_not_apply")
        at = nearest(self.lines, old, hunk.start)
        raise LabError(
            f"{name} does not apply: {_mismatch(self.lines, old, at)} The file's lines there:\n{excerpt(self.lines, at, len(old))}\n"
            "Nothing was kept.",
            "does_not_apply",
        )

    def _form(self, number: int) -> "_Form":
        """Return the lines as they are (0) or without trailing blanks (1), indexed at the first use."""
        if number == len(self._forms):
            self._forms.append(_Form([line.rstrip() for line in self.lines]))
        return self._forms[number]

    def _find(self, form: "_Form", want: list[str], name: str) -> list[int]:
        """Return where `want` occurs as a run of lines, at most `_MOST_PLACES` places. Tries the places of its rarest line only."""
        offset, candidates = min(((n, form.places.get(line, [])) for n, line in enumerate(want)), key=lambda item: len(item[1]))
        matches: list[int] = []
        for start in (at - offset for at in candidates):
            if start >= 0 and start + len(want) <= len(form.lines) and self._same(form.lines, start, want, name):
                matches.append(start)
                if len(matches) == _MOST_PLACES:
                    break
        return matches

    def _same(self, lines: list[str], start: int, want: list[str], name: str) -> bool:
        for at, line in enumerate(want, start):
            self._effort.spend(name, self.path)
            if lines[at] != line:
                return False
        return True


class _Form:
    """Lines, and the indices at which each text stands."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.places: dict[str, list[int]] = {}
        for at, line in enumerate(lines):
            self.places.setdefault(line, []).append(at)


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, as git counts them: a newline at the end starts no further line."""
    lines = text.split("\n")
    return lines[:-1] if not lines[-1] else lines


def nearest(lines: list[str], want: list[str], start: int | None) -> int:
    """Return the index where `want` fits best, blanks aside.

    Args:
        lines: of the file.
        want: the lines that an agent expected there.
        start: the line number at which they should be, where one was given.

    Returns:
        The place with most text in common, in whole lines or in the likest one, else the line number given.
    """
    where: dict[str, list[int]] = {}
    for at, line in enumerate(lines):
        if line.strip():
            where.setdefault(line.strip(), []).append(at)
    votes = Counter[int]()
    for i, line in enumerate(want[:200]):
        for at in where.get(line.strip(), [])[:20]:
            votes[at - i] += len(line.strip())
    missing = [i for i, line in enumerate(want[:200]) if line.strip() and line.strip() not in where]
    if missing:  # a long line that is nearly there says more than a bracket that is
        telling = max(missing, key=lambda i: len(want[i].strip()))
        text = want[telling].strip()[:_MOST_CHARS]
        like, share = _likest(text, list(where)[:_MOST_LINES])
        for at in where[like][:20] if share >= _LIKE else []:
            votes[at - telling] += round(share * len(text) / 2)
    if not votes:
        return max(0, min(start or 1, len(lines)) - 1)
    best, _ = max(votes.items(), key=lambda item: (item[1], -abs(item[0] - (start or 1) + 1)))
    return max(0, best)


def _likest(text: str, lines: list[str]) -> tuple[str, float]:
    """Return the line that holds most of a text, and the share of the text that it holds, from 0 to 1.

    Pairs of letters choose the few lines that are compared letter by letter.
    """
    pairs = _pairs(text)

    def in_common(line: str) -> float:
        return len(pairs & _pairs(line[:_MOST_CHARS])) - len(line) / 1_000  # of two that hold the same, the shorter

    def share(line: str) -> float:
        blocks = SequenceMatcher(None, text, line[:_MOST_CHARS], autojunk=False).get_matching_blocks()
        return sum(block.size for block in blocks if block.size > 1) / max(1, len(text))

    if not lines:
        return "", 0.0
    compared = nlargest(_MOST_COMPARED, lines, key=in_common)
    shares = [share(line) for line in compared]
    best = max(range(len(compared)), key=lambda n: (shares[n], in_common(compared[n])))
    return compared[best], shares[best]


def _pairs(text: str) -> set[str]:
    return {text[at : at + 2] for at in range(len(text) - 1)}


def _mismatch(lines: list[str], want: list[str], at: int) -> str:
    for number, line in enumerate(want, at):
        if number >= len(lines):
            return f"the file ends at line {len(lines)}, but the hunk goes on with `{line[:160]}`."
        if lines[number].rstrip() != line.rstrip():
            return f"line {number + 1} of the file is `{lines[number][:160]}`, but the hunk expects `{line[:160]}`."
    return "its lines do not follow each other in the file."


def excerpt(lines: list[str], at: int, length: int) -> str:
    """Show `length` lines of a file from the index `at` (20 at most), and three around them, with line numbers."""
    first, last = max(0, at - 3), min(len(lines), at + min(length, 20) + 3)
    return "\n".join(f"{number + 1:5} | {lines[number][:160].rstrip()}" for number in range(first, last)) or "(the file is empty)"
