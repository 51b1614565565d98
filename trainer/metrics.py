"""Reads numbers from what a script prints, as it prints it (fixed). Standard library only.

The last line that names a metric decides. It may be a line of its own, a part of a longer one, a cell of a table, a key of JSON, or the
state of a progress bar. A value that is not a finite number, or that goes on as something else (`1,234`, `3/10`, `88%`), is a fault with
a reason, never a guess.
"""

import codecs
import math
import re
from collections import deque
from dataclasses import dataclass

MOST_SCALARS = 32  # further numbers of a run that are kept
LINE = 16 << 10  # characters of a line that are looked at, the last ones
_SCALAR_LINES = 200_000  # after so many, no further numbers are looked for: code that prints for ever must not cost the launcher
_PATTERN_LINE = 4_000  # characters of a line that the owner's own pattern is tried on
_NAME = 64
_MENTIONS = 64  # of a name in a line that are looked at, the last ones
_BEFORE = 40  # characters before a name that may make it another one

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0e-\x1f\x7f]")
_BREAK = re.compile(r"[\r\n]+")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BARS = "|│┃║"
_VALUE = re.compile(
    r"(?P<open>(?:<tf\.Tensor:[^<>]{0,80}\bnumpy=|[A-Za-z_][\w.]*\(\s*)*[\[(\s]*[\"'~≈*`]*)"  # tensor(, np.float64(, [, a quote
    rf"(?:(?P<number>{_NUMBER})|<?(?:(?:np|numpy|math|torch|jnp)\.)?(?P<word>[-+]?(?:nan|inf(?:inity)?)|none|null|n/a)(?!\w))",
    re.IGNORECASE,
)
_ENDS = re.compile(rf"$|[\s;)\]}}\"'±{_BARS}*`!?&>，；。）↑↓▲▼\u200b\u2600-\u27bf\U0001f000-\U0001faff]|,(?!\d)|\.(?=\s|$)|\+/?-")
_GOES_ON = re.compile(
    r"(?:[)\]\"'*`]*\s*)(?P<what>[%‰]|(?:percent|per cent|pct)\b|/\s*\d|->|→|(?:out\s+)?of\s+\d|[x×*·]\s*10\b|\s[eE][-+]?\d|\s[kKMB](?!\w)|\stimes\b)"
)
_THOUSANDS = re.compile(r"(?:\s\d{3})+(?:[.,]\d*)?$|(?:['’]\d{3})+(?!\d)")  # behind one to three digits
_ANOTHER = re.compile(  # words before a name that make it the name of something else
    r"(?:^|\W)(?:train|training|val|valid|validation|test|testing|eval|dev|best|min|max|avg|average|mean|running|smoothed|ema|target|previous|"
    r"prev|initial|old|baseline|random|chance|majority|dummy|naive|expected|desired|required|goal|reference|original|published|human|oracle|"
    r"teacher|highest|lowest|maximum|minimum|peak|worst|median|std)\s+$",
    re.IGNORECASE,
)
_LINE_SCALAR = re.compile(rf"^[\s\-*{_BARS}]*([A-Za-z][\w./-]*(?: [\w./-]+){{0,7}})\s*[:={_BARS}]\s*({_NUMBER})[\s{_BARS}]*$")
_KEY_SCALAR = re.compile(rf"[\"']([^\"'\\]{{1,64}})[\"']\s*:\s*({_NUMBER})(?=\s*[,}}])")
_RULE = re.compile(r"^[\s\-=+|:│┃║─━┼╪╋├┤┝┥╞╡╠╣┌┐└┘╔╗╚╝┏┓┗┛┬┴╤╧┯┷┳┻═╇╈]*$")


@dataclass(frozen=True)
class Reading:
    """What one line says of a metric.

    Attributes:
        value: the number; None where the line has none that counts.
        fault: why not, as the end of a sentence that begins with the line.
        line: what was printed, without colours.
    """

    value: float | None
    fault: str
    line: str


class NamedMetric:
    """Follows what lines say of one metric.

    Args:
        name: as it is printed.
        unit: that may stand right behind the number, such as `%` or `ms`.
        pattern: a regular expression with one group, which is used instead of the name.

    Attributes:
        last: what the last line said that named it; None before there is one.
    """

    def __init__(self, name: str, unit: str = "", pattern: str = "") -> None:
        self.last: Reading | None = None
        self._name, self._unit = name, unit
        self._pattern = re.compile(pattern) if pattern else None
        self._named = _naming(r"\s+".join(map(re.escape, name.split())))
        self._alike = _naming(r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", name.strip()))), re.IGNORECASE)
        self._first = name.split()[0] if name.split() else ""
        self._exact = False  # whether a line had the name as it is spelled: then other spellings are other names
        self._table: _Table | None = None

    def read(self, line: str) -> None:
        """Take in the next line, without colours."""
        if self._pattern:
            for match in self._pattern.finditer(line[-_PATTERN_LINE:]):
                if match[1] is not None:
                    self.last = _exactly(match[1], line)
        elif self._first in line:
            self._read_named(line)
        elif self._table:
            self._read_row(line)
        elif not self._exact:
            self.last = self._reading(line, self._alike) or self.last

    def _read_named(self, line: str) -> None:
        if reading := self._reading(line, self._named):
            self.last, self._exact = reading, True
        elif (table := _Table.headed(line, self._name)) or self._exact:
            self._table = table
        else:
            self._table = None
            self.last = self._reading(line, self._alike) or self.last

    def _reading(self, line: str, naming: re.Pattern[str]) -> Reading | None:
        reading = None
        for match in deque(naming.finditer(line), maxlen=_MENTIONS):
            if not _ANOTHER.search(line[max(0, match.start() - _BEFORE) : match.start()]):
                reading = self._value(line, match) or reading
        return reading

    def _read_row(self, line: str) -> None:
        assert self._table is not None
        cell = self._table.cell(line)
        if cell is None:
            self._table = None if not _RULE.match(line) else self._table
        elif cell:
            self.last, self._exact = _exactly(cell, line, self._unit), True

    def _value(self, line: str, named: re.Match[str]) -> Reading | None:
        match = _VALUE.match(line, named.end())
        if match is None:
            return None
        if word := match["word"]:
            named_so = word.lower().lstrip("+-") in ("nan", "inf", "infinity") or not (named["sep"] or ",").isspace()
            return Reading(None, f"{word} is not a finite number", line) if named_so else None
        rest = line[match.end() :]
        if named["sep"] == ":" and line[named.start("sep") - 1].isdigit() and rest.startswith((":", "-")):
            return None  # `mAP@0.5:0.95: 0.4`, which is another metric than `mAP@0.5`
        return _checked(match["number"], rest, line, self._unit, bool(set("[(") & set(match["open"])))


def _naming(name: str, flags: int = 0) -> re.Pattern[str]:
    """Return the pattern of a name and of what stands between it and its value."""
    separator = rf"\s*(?:->|=>|→)\s*|[\s:：=≈~{_BARS}]+(?:is\b[\s:]+|(?:->|=>|→)\s*|\.\.+[\s:]*)?|\.\.+[\s:]+"
    return re.compile(rf"(?<![\w/.\-])(?:{name})(?![\w/])(?:[\"'*`]*(?P<sep>{separator})|[\"'],\s*|\]\s*[:=]\s*)", flags)


class OutputReader:
    """Reads lines out of a stream of output, for one metric and what stands beside it.

    Args:
        metric: the one that is compared.
        others: further ones to follow by name.

    Attributes:
        scalars: the last value of every further number that stood on a line of its own or in JSON, at most `MOST_SCALARS`.
    """

    def __init__(self, metric: NamedMetric, others: dict[str, NamedMetric] | None = None) -> None:
        self.metric = metric
        self.scalars: dict[str, float] = {}
        self._others = others or {}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest, self._lines = "", 0

    def feed(self, data: bytes) -> None:
        """Take in what was printed next."""
        first, *others = _BREAK.split(self._decoder.decode(data))
        lines = [self._rest + first, *others]
        self._rest = lines.pop()[-LINE:]
        for line in lines:
            self._read(line)

    def end(self) -> None:
        """Take in the last line, which may lack its end."""
        self.feed(b"\n")

    def all_scalars(self) -> dict[str, float]:
        """Return the further numbers, those that were asked for by name among them."""
        named = {name: other.last.value for name, other in self._others.items() if other.last and other.last.value is not None}
        return {**self.scalars, **named}

    def _read(self, line: str) -> None:
        line = clean_line(line[-LINE:])
        if not line:
            return
        self.metric.read(line)
        for other in self._others.values():
            other.read(line)
        self._lines += 1
        if self._lines <= _SCALAR_LINES and len(line) < 2_000:
            pairs = [match.groups()] if (match := _LINE_SCALAR.match(line)) else _KEY_SCALAR.findall(line) if line[0] == "{" else []
            keep(self.scalars, {name: float(number) for name, number in pairs})


def clean_line(line: str) -> str:
    """Return a line without colours and control characters, with one kind of minus."""
    return _ESCAPES.sub("", line).replace("\N{MINUS SIGN}", "-").strip()


def keep(scalars: dict[str, float], new: dict[str, float]) -> None:
    """Add finite numbers under their names; those beyond the limit are left out."""
    for name, value in new.items():
        if math.isfinite(value) and len(name) <= _NAME and (name in scalars or len(scalars) < MOST_SCALARS):
            scalars[name] = value


def _exactly(text: str, line: str, unit: str = "") -> Reading:
    """Read a text that should be a number and nothing else."""
    text = text.strip()
    match = _VALUE.match(text)
    if match is None:
        return Reading(None, f"{text[:40]!r} is not a number", line)
    if match["word"]:
        return Reading(None, f"{match['word']} is not a finite number", line)
    rest = text[match.end() :]
    if rest.strip(" )]'\"") and not (unit and rest.strip() == unit):
        return Reading(None, f"{text[:40]!r} is not a number", line)
    return _checked(match["number"], rest, line, unit, "[" in match["open"])


def _checked(number: str, rest: str, line: str, unit: str, listed: bool) -> Reading:
    """Return the number, unless what follows makes it another one."""
    if unit and re.match(rf"\s*{re.escape(unit)}(?!\w)", rest):
        rest = rest.lstrip().removeprefix(unit)
    short = f"{number}{rest[:12].rstrip()}"
    if listed and re.match(r"[\s,]+[-+\d.]", rest):
        return Reading(None, f"{short} is one of a list of numbers", line)
    goes_on = _GOES_ON.match(rest)
    if goes_on and goes_on["what"] in ("%", "percent", "per cent", "pct"):
        return Reading(None, f'{short!r} is a percentage: [metric] unit = "{goes_on["what"]}" reads it as {number}', line)
    if goes_on or not _ENDS.match(rest) or (number.isdecimal() and len(number) <= 3 and _THOUSANDS.match(rest)):
        return Reading(None, f"{short!r} is another number than {number}", line)
    value = float(number)
    return Reading(value, "", line) if math.isfinite(value) else Reading(None, f"{number} is too large", line)


@dataclass(frozen=True)
class _Table:
    """A printed table in which a column's head is the metric's name.

    Attributes:
        split: what separates cells.
        column: where the metric stands.
        width: how many cells a row has.
    """

    split: re.Pattern[str]
    column: int
    width: int

    @classmethod
    def headed(cls, line: str, name: str) -> "_Table | None":
        for split in (
            re.compile(rf"[{_BARS}]"),
            re.compile(r"\t"),
            re.compile(r","),
            re.compile(r";"),
            re.compile(r"\s{2,}"),
            re.compile(r"\s+"),
        ):
            cells = _cells(line, split)
            heads = len(cells) > 1 and name in cells and all(re.fullmatch(r"[^\d\W][\w./ %()#-]*|#|", cell) for cell in cells)
            if heads and (split.pattern != "," or not any(" " in cell for cell in cells)):
                return cls(split, cells.index(name), len(cells))
        return None

    def cell(self, line: str) -> str | None:
        """Return the metric's cell in a row, empty where the row has none; None for what is no row of this table."""
        cells = _cells(line, self.split)
        if len(cells) == self.width + 1 and r"\s" in self.split.pattern and all(re.fullmatch(_NUMBER, cell) for cell in cells[1:]):
            cells = cells[1:]  # behind its row's own name, as pandas prints it
        if len(cells) != self.width or _RULE.match(line):
            return None
        cell = cells[self.column]
        return cell if re.match(r"[-+.\d]|nan|inf|tensor", cell, re.IGNORECASE) else ""


def _cells(line: str, split: re.Pattern[str]) -> list[str]:
    return [cell.strip() for cell in split.split(line.strip(_BARS + " "))]
