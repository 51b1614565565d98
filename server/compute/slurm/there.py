"""Does on a cluster's login node what a lab asks: files of jobs and of the owner, and one command of Slurm's. Nothing trains there or stays.

ssh sends this source with each request; see `line/there.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.compute.line.given_there import give, lay_out
from autoresearch_mcp.server.compute.line.there import folder_of, grown, last_words, make_folder, prepared, refusal
from autoresearch_mcp.server.compute.line.there import main as speak

CLAIM = "claim"  # in a job's folder: made once, by the job as it begins, or by a runner that forbids it
FORBIDDEN = "forbidden"  # in the claim of a job that a runner gave up
OUTPUT = "slurm.log"  # in a job's folder: what its script printed
COMMAND_S = 30.0  # for a command of Slurm's to answer
LATE = -1000  # the status of one that did not
MARK_S = 3600.0  # that what was removed keeps its claim, so that a request which arrives late starts nothing


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks. `{"refused"}` says why this machine can do nothing for the lab."""
    if refused := refusal(request):
        return refused
    root = folder_of(request)
    return give(root, **request["give"]) if "give" in request else _answer(root, **request["slurm"])


def _answer(
    root: Path,
    remove: list[str],
    put: dict[str, dict[str, Any]],
    forbid: list[str],
    cancel: list[str],
    command: list[str],
    look: dict[str, dict[str, int]],
    prepared: str,
    read: dict[str, list[str]],
) -> dict[str, Any]:
    runs, failed, lacks = root / "runs", "", ""
    for name in remove:
        _remove(runs / name, is_run="/" in name)
    try:
        for name, parts in put.items():
            lacks = lacks or _put(root, runs / name, **parts)
        for name in cancel:
            (runs / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            (runs / name / "cancel").touch()
        forbidden = {name: forbid_job(runs / name) for name in forbid}
    except OSError as error:
        failed, forbidden = f"the run's files could not be written there: {error}. Is the disk full?", {}
    done = _run_of_slurm(command) if command and not failed else []
    return {
        "failed": failed,
        "lacks": lacks,
        "done": done,
        "forbidden": forbidden,
        "looks": {run: _look_on_cluster(runs / run, **at) for run, at in look.items()},
        "prepared": _prepared_before(runs / prepared) if prepared else {},
        "read": {f"{name}/{file}": _read(runs / name / file) for name, files in read.items() for file in files},
        "there": _known(runs),
        "runs": str(runs),
        "python": sys.executable,
    }


def _put(root: Path, folder: Path, contents: dict[str, str], spec: dict[str, Any] | None, given: dict[str, str]) -> str:
    """Make a folder unless it is there. That of a run, which has a spec, needs the owner's folders: return the key of one that is lacking."""
    if folder.exists():
        return ""
    if spec and (lacks := lay_out(root, spec, given)):
        return lacks
    make_folder(folder, contents, {"spec.json": spec} if spec else {})
    return ""


def _remove(folder: Path, is_run: bool) -> None:
    """Remove a folder. Of a run's the claim stays, made if nobody has it, so that no other request and no other job of its name begins it."""
    if not is_run:
        return shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        forbid_job(folder)
    for entry in folder.glob("*"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != CLAIM:
            entry.unlink(missing_ok=True)


def _known(runs: Path) -> list[str]:
    """List the runs whose files are here, and remove claims that are left of others since long."""
    known = list[str]()
    for run in runs.glob("*/*"):
        if (run / "spec.json").exists():
            known.append(f"{run.parent.name}/{run.name}")
            continue
        with contextlib.suppress(OSError):  # there is none, or another attempt is beside it
            if (run / CLAIM).stat().st_mtime < time.time() - MARK_S:
                shutil.rmtree(run, ignore_errors=True)
                run.parent.rmdir()
    return known


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
