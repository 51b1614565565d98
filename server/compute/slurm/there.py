"""Does on a cluster's login node what a lab asks: files of jobs, and one command of Slurm's. Nothing trains there, and nothing stays.

ssh sends this source with each request; see `line/there.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.compute.line.there import folder_of, grown, last_words, make_folder, prepared, refusal
from autoresearch_mcp.server.compute.line.there import main as speak

CLAIM = "claim"  # in a job's folder: made once, by the job as it begins, or by a runner that forbids it
FORBIDDEN = "forbidden"  # in the claim of a job that a runner gave up
OUTPUT = "slurm.log"  # in a job's folder: what its script printed
COMMAND_S = 30.0  # for a command of Slurm's to answer
LATE = -1000  # the status of one that did not


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks. `{"refused"}` says why this machine can do nothing for the lab."""
    return refusal(request) or _answer(folder_of(request) / "runs", **request["slurm"])


def _answer(
    runs: Path,
    remove: list[str],
    put: dict[str, dict[str, Any]],
    forbid: list[str],
    cancel: list[str],
    command: list[str],
    look: dict[str, dict[str, int]],
    prepared: str,
    read: dict[str, list[str]],
) -> dict[str, Any]:
    for name in remove:
        shutil.rmtree(runs / name, ignore_errors=True)
    failed = ""
    try:
        for name, parts in put.items():
            make_folder(runs / name, **parts)
        for name in cancel:
            (runs / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            (runs / name / "cancel").touch()
        forbidden = {name: forbid_job(runs / name) for name in forbid}
    except OSError as error:
        failed, forbidden = f"the run's files could not be written there: {error}. Is the disk full?", {}
    done = _run_of_slurm(command) if command and not failed else []
    return {
        "failed": failed,
        "done": done,
        "forbidden": forbidden,
        "looks": {run: _look_on_cluster(runs / run, **at) for run, at in look.items()},
        "prepared": _prepared_before(runs / prepared) if prepared else {},
        "read": {f"{name}/{file}": _read(runs / name / file) for name, files in read.items() for file in files},
        "there": [f"{run.parent.name}/{run.name}" for run in runs.glob("*/*") if (run / "spec.json").exists()],
        "runs": str(runs),
        "python": sys.executable,
    }


def _prepared_before(folder: Path) -> dict[str, Any]:
    """Tell how a job's preparation went; nothing where it has not ended, or its data was removed."""
    from autoresearch_mcp.trainer.prepare import PreparationError

    try:
        return prepared(folder) if (folder / "status").exists() else {}
    except PreparationError:
        return {}


def forbid_job(folder: Path) -> bool:
    """Make the claim of a job that must not begin. Returns whether it is forbidden: false where it has begun."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with (folder / CLAIM).open("x", encoding="ascii") as file:
            file.write(FORBIDDEN)
    except FileExistsError:
        return (folder / CLAIM).read_text(encoding="ascii").strip() == FORBIDDEN
    return True


def _look_on_cluster(folder: Path, log: int, curve: int) -> dict[str, Any]:
    """Tell what a job's files have grown by, and who made its claim."""
    return {**grown(folder, log, curve, CLAIM), CLAIM: _read(folder / CLAIM), OUTPUT: last_words(folder / OUTPUT)}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")[-4000:]
    except OSError:
        return ""


def _run_of_slurm(command: list[str]) -> list[Any]:
    """Run a command, by a login shell where only that finds it. Returns its status and what it printed."""
    mark = f"{os.getpid()} begins here"
    by_shell = ["bash", "-lc", f'echo "{mark}"; exec "$@"', "bash", *command]
    given = command if shutil.which(command[0]) else by_shell
    try:
        ran = subprocess.run(given, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=False, start_new_session=True)
    except subprocess.TimeoutExpired:
        return [LATE, "", ""]
    out = ran.stdout.decode(errors="replace")
    return [ran.returncode, out if given is command else out.partition(f"{mark}\n")[2], ran.stderr.decode(errors="replace")]


def main() -> None:
    """Answer the request that follows the sources."""
    speak(answer)
