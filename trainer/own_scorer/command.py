"""Runs the owner's own scoring file on what a run submitted, each time in a sandbox of its own (fixed).

The file gets two arguments: what was submitted, and the folder `validation` or `test` of the hidden folder. It prints a JSON object of
metrics on its last line, or `{"error": "..."}`, which agents read, to refuse a submission.
"""

import json
import math
import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import files, sandbox, tables
from autoresearch_mcp.trainer.own_scorer.common import FOR_OWNER, ScoringError, end, receive

VALIDATION, TEST = tables.PARTS
_OUTPUT = 1 << 20  # bytes that are looked at
_SIGNIFICANT = 5  # digits of a metric, as agents see it
_NUMBERS = 33  # metrics of one run


def by_command(code: Path, submitted: Path, hidden: Path, metric: str, jail: sandbox.Jail, timeout_s: float) -> dict[str, Any]:
    """Have the owner's file score what a run submitted, on validation and on the test answers.

    Args:
        code: the owner's file. It may read its folder.
        submitted: file or folder.
        hidden: folder with both answers. Each run of the file sees one.
        metric: the key of what is compared.
        jail: the confinement, without what may be read and written.
        timeout_s: of each run.

    Returns:
        `metrics` on validation, and `test`.

    Raises:
        ScoringError: there is no number.
    """
    measured = {}
    for part in tables.PARTS:
        home, copies = jail.directory / part, jail.directory / "copies"
        home.mkdir()
        answers, scorer = hidden / part, code.parent
        if sandbox.separate_users():  # whom nothing lets into the private folder, where both are
            answers, scorer = (_copied(folder, copies / kind / folder.name) for kind, folder in (("answers", answers), ("scorer", scorer)))
        read = (submitted, answers, scorer)
        environment = {**jail.environment, "HOME": str(home), "TMPDIR": str(home)}
        own = replace(jail, read=read, write=(home,), directory=home, environment=environment)
        measured[part] = _run(scorer / code.name, [str(submitted), str(answers)], own, metric, timeout_s, part)
        shutil.rmtree(copies, ignore_errors=True)
    shown = {name: float(f"{value:.{_SIGNIFICANT}g}") for name, value in measured[VALIDATION].items()}
    return {"metrics": shown, "test": measured[TEST][metric]}


def _copied(folder: Path, target: Path) -> Path:
    """Copy a folder to where every user can read it."""
    for above in reversed(target.parents[:2]):
        above.mkdir(exist_ok=True)
        above.chmod(0o755)
    files.copy_for_all(folder, target)
    return target


def _run(code: Path, arguments: list[str], jail: sandbox.Jail, metric: str, timeout_s: float, part: str) -> dict[str, float]:
    ours, theirs = os.pipe()

    def run() -> None:
        sys.path.insert(0, str(code.parent))
        sys.argv = [str(code), *arguments]
        runpy.run_path(str(code), run_name="__main__")

    pid = sandbox.spawn(run, replace(jail, output=theirs))
    os.close(theirs)
    output, in_time = receive(ours, timeout_s, _OUTPUT)
    exit_code = end(pid, in_time)
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    tail = f"on {part}, exit code {exit_code}: {' | '.join(lines[-8:])[-1500:]}"
    if not in_time:
        raise ScoringError(f"the lab's scorer took more than {timeout_s:g} s. {FOR_OWNER}", "scorer", tail)
    answer = _object(lines[-1]) if lines else None
    if answer is not None and isinstance(complaint := answer.get("error"), str):
        on_validation = f"the lab's scorer refuses what was submitted: {complaint[:300]}"
        shown = on_validation if part == VALIDATION else "the lab's scorer refuses it on the test set."
        raise ScoringError(shown, "code", f"on {part}: {complaint[:1000]}")
    if exit_code != 0 or answer is None:
        raise ScoringError(f"the lab's scorer failed on what was submitted. {FOR_OWNER}", "scorer", tail)
    numbers = {
        str(name)[:80]: float(value)
        for name, value in list(answer.items())[:_NUMBERS]
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    if metric not in numbers:
        raise ScoringError(f"the lab's scorer gave no finite {metric}. {FOR_OWNER}", "scorer", tail)
    return numbers


def _object(line: str) -> dict[str, Any] | None:
    """Return the JSON object in a line; None where there is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
