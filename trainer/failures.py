"""Sorts the failures of runs into classes that an agent can act on, from how a run ended and from the log it left (fixed).

The log is what the agent's code printed, so a class from it is a hint to the agent and never a measurement.
"""

import math
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer.text import clean, one_line

ADVICE = {
    "oom": "Use less memory: a smaller batch, fewer layers, or a narrower model.",
    "nan": "The loss became NaN or infinite. Lower the learning rate, or undo the change that made it unstable.",
    "diverged": "The loss grew instead of falling. Lower the learning rate, or add warmup.",
    "shape_error": "Tensor shapes don't fit together: check that the widths divide (dim by head size, batch by row length).",
    "import_error": "Only torch, numpy, safetensors and the standard library can be counted on; nothing can be installed or downloaded.",
    "syntax_error": "The file is not valid Python: fix it and propose again.",
    "timeout": "Stop the loop by run.progress(), leave time for submit(), and do nothing slow before start().",
    "killed": "The process was killed from outside, or crashed below Python. Launch it again; if it repeats, look for native code or memory.",
    "invalid_model": "The submitted model must map (rows, seq_len) token ids to (rows, seq_len, vocab_size) logits, each position from "
    "its own row's past alone, without state between calls.",
    "sandbox_violation": "The code reached for something outside its sandbox: it may read its own code and write its own directory, no more.",
    "error": "Read the lines and the log.",
}
SCRIPT_ADVICE = ADVICE | {  # for code without the contract
    "import_error": "Nothing can be installed or downloaded in a run: use what the lab's interpreter has.",
    "timeout": "Do less, or stop earlier: the budget is wall time, from the script's first moment to its end.",
    "error": "Read the lines and the log. The last line that names the metric must give one finite number.",
}
SCORED_ADVICE = SCRIPT_ADVICE | {  # for such code where the lab's own scorer measures what it leaves
    "error": ADVICE["error"],
    "invalid_model": "Leave in the run's folder what the message asks for: the lab's scorer measures nothing else.",
}
_SHAPES = re.compile(
    r"shape|size of tensor|must match the size|mat1 and mat2|size mismatch|dimension|reduction dim|broadcast|same number of elements|divisible",
    re.IGNORECASE,
)
_MEMORY = re.compile(r"out of memory|can't allocate memory|cannot allocate memory|DefaultCPUAllocator|STATUS_ALLOC_FAILED", re.IGNORECASE)
_REFUSED = re.compile(
    r"Errno (1|13)\]|File too large|name resolution|Name or service not known", re.IGNORECASE
)  # as libraries pass it on; nothing resolves
_FRAME = re.compile(r'^(?:\s|> )*File "(?P<path>[^"]+)", line (?P<line>\d+)(?:, in (?P<where>.*))?$')
_HEAD = re.compile(r"(?:^(?P<before>[^\n]*)\n)?^[^\n]*Traceback \(most recent call last\):\n", re.MULTILINE)
_IGNORED = re.compile(r"Exception ignored |--- Logging error")  # in the line before a traceback that ended nothing
_BY_THE_WAY = re.compile(rf"{_IGNORED.pattern}|Exception in thread ")
_BELOW_A_BOX = re.compile(r"^╰─+╯\s*\n(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$", re.MULTILINE)
_OF_HYDRA = "Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace."
_SAID = re.compile(r"\b(?:error|usage|missing|required|invalid|unrecognized|no such)\b", re.IGNORECASE)
_CAUSE = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")


@dataclass(frozen=True)
class Failure:
    """Why a run failed. It mirrors `autoresearch_mcp.server.models.Failure`, into which the server turns it."""

    kind: str
    message: str
    lines: list[str] = field(default_factory=list)
    fault: str = "code"  # whose it is, one of protocol.FAULTS; it stands in the result, beside this
    barred: bool = False  # see protocol.Result; likewise

    def as_dict(self, script: bool = False, scored: bool = False) -> dict[str, Any]:
        """Return it as JSON values, cleaned and cut to size, with advice.

        Args:
            script: whether the run's code keeps no contract.
            scored: whether the owner's scorer measures what such code leaves.
        """
        return {
            "kind": self.kind,
            "message": one_line(self.message, 500),
            "lines": [" ".join(clean(line[:1_000]).splitlines())[:300] for line in self.lines[:12]],
            "advice": (SCORED_ADVICE if scored else SCRIPT_ADVICE if script else ADVICE)[self.kind],
        }


class Ended(Exception):
    """Ends a run without a metric: `state` is that of its result."""

    def __init__(self, state: str, failure: Failure | None = None) -> None:
        super().__init__(state)
        self.state = state
        self.failure = failure

    @property
    def fault(self) -> str:
        """Whose it is that the run ended so, one of `protocol.FAULTS`."""
        return self.failure.fault if self.failure else "cancel"

    @property
    def barred(self) -> bool:
        """Whether a check of the model failed."""
        return self.failure is not None and self.failure.barred


def of_crash(log: str, code: Path, losses: Sequence[float], exit_code: int, script: str = "") -> Failure:
    """Classify a process that ended without submitting.

    Args:
        log: the end of what it printed.
        code: the directory of the agent's files; frames elsewhere are left out, and paths become relative to it.
        losses: reported training losses, first and last.
        exit_code: as in subprocess, negative for a signal.
        script: what was run, where it keeps no contract.
    """
    file = script or "train.py"
    cause, message, lines = read_traceback(log, code)
    if exit_code == -signal.SIGSYS:
        kind = "sandbox_violation"
        message = f"{file} made a system call of another architecture, and its sandbox killed it."
    elif exit_code < 0:
        kind = "killed"
        message = f"{file} was ended by signal {-exit_code}."
    elif losses and not math.isfinite(losses[-1]):
        kind = "nan"
        message = "the training loss became NaN or infinite."
    elif cause in ("", "FloatingPointError") and losses and losses[-1] > max(2 * losses[0], losses[0] + 3):
        kind = "diverged"
        message = f"the training loss grew from {losses[0]:.2f} to {losses[-1]:.2f}, and {file} gave up."
    elif not cause:
        kind = "error"
        lines = log.strip().splitlines()[-5:]
        why = f": {lines[-1].strip()}" if script and lines and _SAID.search(lines[-1]) else ""
        message = f"{file} ended with exit code {exit_code}{'' if script else ' and without submitting a model'}{why or '.'}"
    else:
        kind = _kind_of(cause, message)
        message = f"{cause}: {message}" if message else cause
    return Failure(kind, message, lines)


def read_traceback(log: str, code: Path) -> tuple[str, str, list[str]]:
    """Read type, message and the frames within `code` of the last traceback in a log that ended something; empty where there is none.

    One of an exception that Python ignored, or of a thread that ended alone, is passed over where there is another.
    """
    block = _last_block(log)
    if not block:
        return _of_a_box(log)
    lines, frames, text = block.splitlines(), [], []
    position = 0
    while position < len(lines) and (not lines[position] or lines[position].startswith((" ", "> "))):
        frame = _FRAME.match(lines[position])
        if frame and Path(frame["path"]).is_relative_to(code):
            where = f", in {frame['where']}" if frame["where"] else ""
            frames.append(f"{Path(frame['path']).relative_to(code)}:{frame['line']}{where}")
            if position + 1 < len(lines) and not _FRAME.match(lines[position + 1]):
                frames.append(f"    {lines[position + 1].strip()}")
        position += 1
    text = lines[position : position + 20]
    cause = _CAUSE.match(text[0]) if text else None
    if not cause:
        return "error", " ".join(text)[:500], frames[-8:]
    message = " ".join([cause["message"] or "", *text[1:]]).replace(_OF_HYDRA, "").strip().replace(f"{code}/", "")
    return cause["type"].rpartition(".")[2], message, [*frames[-8:], f"{cause['type']}: {message[:300]}"]


def _last_block(log: str) -> str:
    """Return what follows the head of the last traceback that ended something, up to the next; empty where there is none."""
    heads = list(_HEAD.finditer(log))
    ends = [*(head.start() for head in heads[1:]), len(log)]
    for passed_over in (_BY_THE_WAY, _IGNORED):
        for head, end in zip(reversed(heads), reversed(ends)):
            if not passed_over.match(head["before"] or ""):
                return log[head.end() : end]
    return ""


def _of_a_box(log: str) -> tuple[str, str, list[str]]:
    """Read what rich draws in place of a traceback: the error stands below its box."""
    found = list(_BELOW_A_BOX.finditer(log))
    if not found:
        return "", "", []
    cause, message = found[-1]["type"].rpartition(".")[2], (found[-1]["message"] or "").strip()
    return cause, message, [f"{cause}: {message[:300]}"]


def _kind_of(cause: str, message: str) -> str:
    if cause in ("SyntaxError", "IndentationError", "TabError"):
        return "syntax_error"
    if cause in ("ImportError", "ModuleNotFoundError"):
        return "import_error"
    if cause == "PermissionError" or _REFUSED.search(message):
        return "sandbox_violation"
    if cause in ("MemoryError", "OutOfMemoryError") or _MEMORY.search(message):
        return "oom"
    if cause == "FloatingPointError":
        return "nan"
    if cause in ("RuntimeError", "TorchRuntimeError", "ValueError", "IndexError", "AssertionError") and _SHAPES.search(message):
        return "shape_error"
    return "error"
