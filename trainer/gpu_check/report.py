"""Keeps what was measured, judges it, and shows it: a table as it goes, `gpu-check.json`, and the page docs/measured.md."""

import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import prepare, protocol

FORMAT = 1
FILE = "gpu-check.json"
COMMAND = "make gpu-check"
MEASURED, FAILED, SKIPPED = "measured", "failed", "skipped"


@dataclass(frozen=True)
class Quantity:
    """A number that the check measures, as pages and tables name it.

    Attributes:
        key: its name in the file.
        part: that measures it.
        text: what it is.
        unit: of the number.
        planned: what the plan in `trainer.prepare` says, or a document; None where nothing does.
    """

    key: str
    part: int
    text: str
    unit: str
    planned: float | None = None


QUANTITIES = (
    Quantity("import_s", 1, "import torch, from a page cache as it was found", "s", 5.0),
    Quantity("prepare_s", 1, "download from the stand-in of the hub, tokenizer, tokens", "s"),
    Quantity("cold_start_s", 1, "spawn to start(), with nothing compiled before", "s"),
    Quantity("tokens_per_s", 1, "training, SDPA", "tokens/s"),
    Quantity("mfu", 1, "MFU by the table of peaks", "%"),
    Quantity("vram_mb", 1, "peak memory of the card in training", "MB"),
    Quantity("submit_s", 1, "submit(): weights to the disk", "s", 0.5),
    Quantity("score_s", 1, "scoring", "s", 3.3),
    Quantity("scored_tokens", 1, "tokens scored, both splits", "million"),
    Quantity("val_bpb", 1, "val_bpb of the first run (its text is the CPU profile's, so it compares with nothing)", "bits/byte"),
    Quantity("warm_start_s", 2, "spawn to start(), with the kept compile cache", "s", 5.0),
    Quantity("restore_s", 2, "of that, unpacking the compile cache", "s", 1.0),
    Quantity("saved_s", 2, "seconds that the compile cache saves a run", "s"),
    Quantity("outside_s", 2, "a run's seconds outside its budget, compile cache kept", "s", 9.0),
    Quantity("same_seed", 2, "two runs of one seed, difference of val_bpb", "bits/byte"),
    Quantity("other_seed", 2, "two runs of two seeds, difference of val_bpb", "bits/byte"),
    Quantity("sdpa_tokens_per_s", 3, "training, SDPA, the same short budget", "tokens/s"),
    Quantity("flex_tokens_per_s", 3, "training, FlexAttention", "tokens/s"),
    Quantity("fa3_tokens_per_s", 3, "training, FlashAttention 3", "tokens/s"),
    Quantity("score_stage_s", 4, "scoring on its own, as on another machine", "s"),
    Quantity("largest_gap", 4, "largest gap of an honest decoy or twin", "nats"),
    Quantity("p999_gap", 4, "gap that 99.9% of honest positions stay below", "nats"),
    Quantity("cpu_bpb", 4, "the same weights on the CPU in float32, difference in bits per byte", "bits/byte"),
    Quantity("cpu_largest", 4, "the same, largest difference at one position", "nats"),
    Quantity("driver_files", 5, "device files that the driver opens in the sandbox", "files"),
    Quantity("kill_s", 5, "kill of the launcher to the last process gone, slowest stage", "s"),
    Quantity("marks", 5, "words of a dead process found in uninitialised memory", "words", 0.0),
    Quantity("lab_s", 6, "init, baseline, a gain promoted, a loss refused", "s"),
    Quantity("slot_share", 6, "share of the slot that trains, at short budgets", "%"),
)


@dataclass
class Part:
    """What one part of the check showed.

    Attributes:
        number: of the part.
        name: what it is about.
        state: measured, failed, or skipped.
        seconds: it took.
        numbers: by the key of a quantity.
        verdicts: a sentence about each claim, and whether it holds; None where it could not be shown here.
        words: what else there is to say.
        at: UTC, when it ended.
    """

    number: int
    name: str
    state: str = MEASURED
    seconds: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)
    verdicts: list[tuple[str, bool | None]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    at: str = ""

    def judge(self, claim: str, holds: bool | None) -> None:
        """Add a verdict."""
        self.verdicts.append((claim, holds))

    @property
    def good(self) -> bool:
        """Whether nothing in it failed."""
        return self.state != FAILED and all(holds is not False for _, holds in self.verdicts)


@dataclass
class Report:
    """Everything that a check showed, kept in a file after each part.

    Args:
        path: of the file.
        setup: what the numbers hold for: card, driver, torch, commit, device, and so on.
    """

    path: Path
    setup: dict[str, Any]
    parts: dict[int, Part] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)  # what the picture shows
    complete: bool = False

    def take_up(self) -> list[int]:
        """Take over the parts that an interrupted check measured under the same setup.

        Returns:
            Their numbers.
        """
        kept = read_report(self.path)
        if kept is None or kept.complete or _key(kept.setup) != _key(self.setup):
            return []
        self.setup = {**self.setup, **kept.setup}
        self.parts = {number: part for number, part in kept.parts.items() if part.state == MEASURED}
        self.runs = kept.runs
        return sorted(self.parts)

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: the disk is full or can't be written.
        """
        parts = {str(number): asdict(part) for number, part in sorted(self.parts.items())}
        value = {"format": FORMAT, "complete": self.complete, "setup": self.setup, "parts": parts, "runs": self.runs}
        protocol.write_json(self.path, value)

    def number(self, key: str) -> float | None:
        """Return a measured number; None if it wasn't measured."""
        return next((part.numbers[key] for part in self.parts.values() if key in part.numbers), None)

    @property
    def good(self) -> bool:
        """Whether every part that ran is good."""
        return all(part.good for part in self.parts.values())


def read_report(path: Path) -> Report | None:
    """Read what a check left; None where there is nothing, or nothing that this version knows."""
    kept = protocol.read_json(path) or {}
    if kept.get("format") != FORMAT:
        return None
    parts = {
        int(number): Part(**{**part, "verdicts": [(claim, holds) for claim, holds in part["verdicts"]]})
        for number, part in kept["parts"].items()
    }
    return Report(path, kept["setup"], parts, kept["runs"], kept["complete"])


def _key(setup: dict[str, Any]) -> list[Any]:
    return [setup.get(name) for name in ("device", "quick", "card", "torch", "fixed")]


def commit() -> str:
    """Return the commit of the checkout that this file is in, short; `unknown` where there is none."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def now() -> str:
    """Return the time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())


def fixed_hash() -> str:
    """Return the hash of what trains and scores, so that numbers of other code are not taken over."""
    return prepare.fixed_hash()


def show(lines: Iterable[str]) -> None:
    """Print lines at once."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def table(part: Part, real: bool) -> list[str]:
    """Return the lines that show a part.

    Args:
        part: of the check.
        real: whether it ran on a GPU, so that plans for one stand beside its numbers.
    """
    lines = [f"part {part.number}  {part.name}: {part.state}, {part.seconds:.0f} s"]
    for quantity in QUANTITIES:
        if quantity.key in part.numbers:
            planned = f"   planned {figure(quantity.planned)}" if real and quantity.planned is not None else ""
            lines.append(f"    {figure(part.numbers[quantity.key]):>12} {quantity.unit:<10} {quantity.text}{planned}")
    marks = {True: "yes", False: "NO ", None: "?  "}
    lines += [f"    {marks[holds]} {claim}" for claim, holds in part.verdicts]
    return lines + [f"    {text}" for text in part.words]


def figure(value: float) -> str:
    """Return a number with as many digits as mean something."""
    if value == 0 or abs(value) >= 1000:
        return f"{value + 0.0:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def page(kept: Report | None) -> str:
    """Return docs/measured.md.

    Args:
        kept: what a check left; None where nothing was measured. A check on a CPU measures nothing that the page is about.
    """
    measured = kept if kept is not None and kept.setup["device"] == "cuda" else None
    where = "Nothing was measured on a GPU yet."
    if measured is not None:
        setup = measured.setup
        where = f"{setup['card']}, driver {setup['driver']}, torch {setup['torch']}, commit `{setup['commit']}`, {setup['date']} UTC."
    lines = [
        "# Measured on a GPU",
        "",
        f"{where} `{COMMAND}` measures all of this in about ten minutes on an H100, and",
        "`python3 trainer/gpu_check --page docs/measured.md` writes this page from what it left. What is planned is arithmetic, or what a document",
        "says. Numbers of a check in miniature, on a CPU, are never written here.",
        "",
        "| part | what | unit | planned | measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for quantity in QUANTITIES:
        value = measured.number(quantity.key) if measured else None
        shown = figure(value) if value is not None else f"not measured: `{COMMAND}`"
        planned = figure(quantity.planned) if quantity.planned is not None else ""
        lines.append(f"| {quantity.part} | {quantity.text} | {quantity.unit} | {planned} | {shown} |")
    if measured:
        lines += ["", "| part | claim | holds |", "| --- | --- | --- |"]
        marks = {True: "yes", False: "**no**", None: "not shown"}
        for number, part in sorted(measured.parts.items()):
            lines += [f"| {number} | {claim} | {marks[holds]} |" for claim, holds in part.verdicts]
    return "\n".join([*lines, ""])
