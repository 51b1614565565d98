"""What a check of a lab or of code found, and what a short run tells."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from autoresearch_mcp.server.compute.local.short_run import ShortRun
from autoresearch_mcp.server.models import Failure
from autoresearch_mcp.server.settings import MetricSection, Settings
from autoresearch_mcp.trainer.metrics import Reading

_IGNORED = (
    "A run has the files that are in git and that [training] files names, nothing else. Put data into a folder outside, and name it as "
    "[training] data in lab.toml."
)
_INSTALL = "Install it where the runs' interpreter finds it, or name the interpreter that has it as [training] python in lab.toml."
_LACKS_ARGUMENTS = re.compile(r"exit code 2: .*(?:argument|required|command|usage|option)", re.IGNORECASE)
_ARGUMENTS = "It takes other arguments: write them behind the file in [training] entry of lab.toml, or behind [training] module."
_KINDS = {
    "import_error": _INSTALL,
    "syntax_error": "The Python that runs it can't read it: correct it, or name a newer one as [training] python in lab.toml.",
    "sandbox_violation": "A run writes to its own folder ($HOME, where it starts), $TMPDIR and /tmp only.",
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        grade: ok, note (works, but know this) or bad.
        text: the state of things.
        hint: what to do about it.
    """

    name: str
    grade: str
    text: str
    hint: str = ""

    @property
    def bad(self) -> bool:
        """Whether it is a fault."""
        return self.grade == "bad"

    @property
    def mark(self) -> str:
        """The grade, as it is shown."""
        return {"ok": "ok  ", "note": "note", "bad": "BAD "}[self.grade]


def findings_of(short: ShortRun, settings: Settings, seconds: float) -> Iterator[Finding]:
    """Say how a short run of so many seconds went."""
    training, metric = settings.training, settings.metric
    command = training.command
    ended = {"done": "came to its end", "going": f"still trained after {seconds:g} s", "failed": "failed"}[short.outcome]
    if failure := short.failure:
        lines = [line for line in failure.lines if line not in failure.message]
        text = f"`{command}` {ended}: {failure.message}" + "".join(f"\n      {line}" for line in lines)
        yield Finding("code", "bad", text, _hint(failure, metric.name))
    else:
        yield Finding("code", "ok", f"`{command}` {ended}")
    for line in short.refused:
        yield Finding("sandbox", "note", f"something was refused, and the code went on: {line}", _KINDS["sandbox_violation"])
    if short.startup_s is not None:
        first = "its first line of output" if metric.name else "start()"
        yield Finding("start", "ok", f"{first} came after {short.startup_s:.1f} s")
    elif short.outcome == "going" and not metric.name:
        yield Finding("start", "bad", "it never called start()", "Build the model, call start(), then train.")
    elif short.outcome == "going":
        yield Finding("start", "note", f"it printed nothing in {seconds:g} s", "`--seconds` gives it longer.")
    if short.step_s is not None:
        loss = "" if short.loss is None else f"; the loss is {short.loss:.4g}"
        yield Finding("steps", "ok", f"{short.steps} steps, {_seconds(short.step_s)} each{loss}")
    if settings.scorer.kind != "none":
        if short.outcome != "failed":
            yield _scored(metric.name, short.outcome == "done")
    elif metric.name and (short.outcome != "failed" or short.metric):
        yield _metric(short.metric, metric, training.budget_s, short.outcome == "done")
    if short.peak_memory_mb:
        tight = short.peak_memory_mb > 0.8 * short.memory_limit_mb
        hint = "[training] memory_mb in lab.toml sets the limit." if tight and metric.name else ""
        yield Finding("memory", "note" if tight else "ok", f"{short.peak_memory_mb:,.0f} of {short.memory_limit_mb:,} MB", hint)
    if short.weights_mb is not None:
        yield Finding("weights", "ok", f"{short.weights_mb:.1f} of {short.weights_limit_mb} MB were submitted")


def never_submits(file: str) -> Finding:
    """Say that the code of a lab without a metric of its own keeps no contract."""
    hint = (
        "Name the metric that it prints as [metric] name in lab.toml: then it runs as it is. Or have it call start() and submit(), as "
        "trainer/client.py says."
    )
    return Finding("code", "bad", f"{file} never calls submit(), so no run of it can be scored", hint)


def _hint(failure: Failure, metric: str) -> str:
    """Return what to do about a failure. Only code that reports its own metric can be told of settings of its own."""
    if metric and ("FileNotFoundError" in failure.message or "No such file" in failure.message):
        return _IGNORED
    if metric and _LACKS_ARGUMENTS.search(failure.message):
        return _ARGUMENTS
    return (_KINDS.get(failure.kind, "") if metric else "") or failure.advice


def _scored(metric: str, ended: bool) -> Finding:
    """Say whether code that the lab's own scorer measures has left what it takes."""
    text = "what the lab's scorer takes was left" if ended else "the lab's scorer measures what a run leaves at its end"
    return Finding("metric", "ok" if ended else "note", f"{text}; {metric} isn't measured here")


def _metric(reading: Reading | None, metric: MetricSection, budget_s: float, ended: bool) -> Finding:
    """Say whether code that reports its own metric has done so."""
    if reading is not None and reading.value is not None:
        return Finding("metric", "ok", f"{metric.name} is {reading.value:g}{metric.unit}" + ("" if ended else " so far"))
    if reading is not None:
        return Finding("metric", "bad", f"{reading.fault}, in `{reading.line[:160]}`", "See [metric] in lab.toml: unit, pattern, source.")
    where = f"in {metric.source}" if metric.source != "output" else "in the output"
    hint = "It has to stand there when the run ends; `--seconds` gives it longer. See [metric] name, pattern and source in lab.toml."
    return Finding("metric", "note", f"{metric.name} is not {where} yet; a run has {budget_s:g} s", hint)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1e3:.2g} ms"
