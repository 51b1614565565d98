"""`autoresearch-mcp check`: trains a commit for a few seconds in the sandbox, and says what an agent would hit."""

import argparse
import asyncio
from collections.abc import Iterator
from pathlib import Path

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.arguments import add_lab, existing_lab
from autoresearch_mcp.server.commands.findings import Finding, show
from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.local.short_run import ShortRun, short_run
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.trainer.metrics import Reading

EXAMPLES = ("autoresearch-mcp check my-lab", "autoresearch-mcp check --commit 3f2a91c --seconds 30 my-lab")
SECONDS = 5.0
_IGNORED = (
    "A run has the files that are in git and that [training] files names, nothing else. Put data into a folder outside, and name it as "
    "[training] data in lab.toml."
)
_INSTALL = "Install it where the runs' interpreter finds it, or name the interpreter that has it as [training] python in lab.toml."
_KINDS = {"import_error": _INSTALL, "sandbox_violation": "A run writes to its own folder ($HOME, where it starts), $TMPDIR and /tmp only."}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_lab(parser)
    parser.add_argument("--commit", default="champion", help="what is trained (default: the champion)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of training, at most (default: {SECONDS:g})")


def run(arguments: argparse.Namespace) -> int:
    """Train, and show every finding.

    Returns:
        1 where one is a fault.
    """
    if not 0 < arguments.seconds <= 3600:
        raise LabError("--seconds takes a number from 1 to 3600.", "bad_option")
    return show(examine(existing_lab(arguments.dir), arguments.commit, arguments.seconds))


def examine(root: Path, commit: str = "champion", seconds: float = SECONDS) -> list[Finding]:
    """Train a commit for a few seconds and return what an agent would hit.

    Raises:
        LabError: `unknown_commit`; `no_short_run` where nothing can be trained here; those of the settings.
    """
    settings = lab_settings.load(root)
    training = settings.training
    repo = Repo(root, training.editable)
    sha = repo.resolve(commit)
    code = {**(repo.other_files(sha, training.files) if training.files else {}), **repo.editable_files(sha)}
    state = LabPaths(root).state
    state.mkdir(exist_ok=True)
    try:
        short = asyncio.run(short_run(settings, state, code, seconds, most_s=60 + 3 * seconds))
    except ComputeError as error:
        raise LabError(str(error), "no_short_run") from None
    return list(_findings(short, settings, seconds))


def _findings(short: ShortRun, settings: lab_settings.Settings, seconds: float) -> Iterator[Finding]:
    training, metric = settings.training, settings.metric
    command = f"python -m {training.module}" if training.module else f"python {training.entry}"
    ended = {"done": "came to its end", "going": f"still trained after {seconds:g} s", "failed": "failed"}[short.outcome]
    if failure := short.failure:
        lines = [line for line in failure.lines if line not in failure.message]
        text = f"`{command}` {ended}: {failure.message}" + "".join(f"\n      {line}" for line in lines)
        missing = "FileNotFoundError" in failure.message or "No such file" in failure.message
        yield Finding("code", "bad", text, _IGNORED if missing and metric.name else _hint(failure.kind, metric.name) or failure.advice)
    else:
        yield Finding("code", "ok", f"`{command}` {ended}")
    for line in short.refused:
        yield Finding("sandbox", "note", f"something was refused, and the code went on: {line}", _KINDS["sandbox_violation"])
    if short.startup_s is not None:
        first = "its first line of output" if metric.name else "start()"
        yield Finding("start", "ok", f"{first} came after {short.startup_s:.1f} s")
    elif short.outcome == "going" and not metric.name:
        yield Finding("start", "bad", "it never called start()", "Build the model, call start(), then train.")
    if short.step_s is not None:
        loss = "" if short.loss is None else f"; the loss is {short.loss:.4g}"
        yield Finding("steps", "ok", f"{short.steps} steps, {_seconds(short.step_s)} each{loss}")
    if metric.name and (short.outcome != "failed" or short.metric):
        yield _metric(short.metric, metric, training.budget_s, short.outcome == "done")
    if short.peak_memory_mb:
        tight = short.peak_memory_mb > 0.8 * short.memory_limit_mb
        hint = "[training] memory_mb in lab.toml sets the limit." if tight and metric.name else ""
        yield Finding("memory", "note" if tight else "ok", f"{short.peak_memory_mb:,.0f} of {short.memory_limit_mb:,} MB", hint)
    if short.weights_mb is not None:
        yield Finding("weights", "ok", f"{short.weights_mb:.1f} of {short.weights_limit_mb} MB were submitted")


def _hint(kind: str, metric: str) -> str:
    return _KINDS.get(kind, "") if metric else ""


def _metric(reading: Reading | None, metric: lab_settings.MetricSection, budget_s: float, ended: bool) -> Finding:
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
