"""Does on a host what a lab asks. ssh sends this source there with each request; see `line/there.py`.

A request does nothing before all of it has arrived. Each part can be repeated: a run's folder appears whole or not at all, its launcher
locks it, and what was forbidden or removed leaves a mark, so that a request which arrives late starts nothing.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.compute.line.given_there import give, is_whole, lay_out, place_of
from autoresearch_mcp.server.compute.line.there import MODELS, folder_of, grown, lacking, last_words, make_folder, prepared, refusal
from autoresearch_mcp.server.compute.line.there import main as speak

HOST = "host.json"  # in a run's folder there: {"boot"} as it was launched
EXITED = "exited"  # in a run's folder there: the launcher's exit status
OUTPUT = "launcher.log"
IN_USE = "in use"  # the answer to a launch whose GPU somebody else uses
LACKS = "lacks "  # before the key of a folder that has to be given first
_SHORT_S = 0.5  # a run that ends so soon is told of in the answer to its launch
_GPU_S = 10  # for NVIDIA's tool to answer


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks. `{"refused"}` says why this host can do nothing for the lab."""
    return refusal(request) or _answer(folder_of(request), request)


def _answer(root: Path, request: dict[str, Any]) -> dict[str, Any]:
    if "give" in request:
        return give(root, **request["give"])
    if "prepare" in request:
        return _prepare(root, **request["prepare"])
    runs = root / "runs"
    launched = {each["run"]: _launch(root, **each) for each in request["launch"]}
    adopted = {run: _adopt(runs / run) for run in request["adopt"]}
    for run in request["cancel"]:
        _cancel(runs / run)
    for run in request["remove"]:
        _remove(runs / run)
    _await_short([runs / run for run, why in launched.items() if not why])
    looks = {run: _look(runs / run, **at) for run, at in request["look"].items()}
    known = [f"{run.parent.name}/{run.name}" for run in runs.glob("*/*") if (run / "spec.json").exists()] if request["list"] else []
    return {
        "launched": launched,
        "adopted": adopted,
        "looks": looks,
        "there": known,
        "clock": _clock(),
    }


def _prepare(
    root: Path, profile: str, name: str, secret: str, own: dict[str, Any] | None, text: str, again: bool, stop: bool
) -> dict[str, Any]:
    """Begin to prepare data unless that goes on, or tell how it went.

    Args:
        root: The lab's folder here.
        profile: Its name; empty where code brings its own data.
        name: Tells this data from what was prepared otherwise.
        secret: Draws the lab's own split; empty for the public one.
        own: What the profile is made of, where it is of the owner's own text.
        text: Names the folder with that text; empty where it comes from the hub.
        again: Whether to begin where it doesn't go on.
        stop: Whether to end it.
    """
    here = {"cores": len(os.sched_getaffinity(0)), "clock": _clock()}
    if not profile:
        return {"data": "", "hashes": {}, **here}
    if missing := lacking(MODELS):
        return {"refused": f"{sys.executable} lacks {', '.join(missing)}"}
    folder = root / f"prepare-{name}"
    folder.mkdir(exist_ok=True, mode=0o700)
    pid, status, out, err = (folder / name for name in ("pid", "status", "out", "err"))
    if stop:
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int(pid.read_text(encoding="ascii")), signal.SIGINT)
        return {}
    if again and not _alive(pid):
        status.unlink(missing_ok=True)
        command = [sys.executable, "-m", "autoresearch_mcp.trainer.prepare", profile]
        if own and text:
            own["text"] = str(place_of(root, "text", text))
            if not is_whole(root, "text", text):
                return {"lacks": "text"}
        command += ["--own", json.dumps(own)] if own else []
        if secret:
            file = folder / "secret"
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as target:
                target.write(base64.b64decode(secret))
            command += ["--secret", str(file)]
        text = f"{shlex.join(command)} > {shlex.quote(str(out))} 2> {shlex.quote(str(err))}; echo $? > {shlex.quote(str(status))}"
        pid.write_text(str(_detach(text, err)), encoding="ascii")
    deadline = time.monotonic() + 2
    while not (status.exists() and status.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    if not (status.exists() and status.stat().st_size):
        return {"goes_on": _alive(pid)}
    return {**prepared(folder), **here}


def _launch(
    root: Path,
    run: str,
    spec: dict[str, Any],
    files: dict[str, str],
    hashes: dict[str, str],
    before: list[str],
    nice: int,
    leave: list[float],
    given: dict[str, str],
) -> str:
    """Start a run's launcher, unless it has begun or is forbidden.

    Returns:
        Why it can't be started; `IN_USE` or `LACKS` and a key, where another try may help; empty where it was.
    """
    from autoresearch_mcp.trainer import prepare, protocol
    from autoresearch_mcp.trainer.files import size

    folder = root / "runs" / run
    try:
        is_data = prepare.data_hashes(Path(spec["data"])) if spec["data"] else {}
        if is_data != hashes:
            return f"the prepared data there differs now in {_differing(is_data, hashes)}"
        if not folder.exists():
            if lacks := lay_out(root, spec, given):
                return LACKS + lacks
            spec["visible"], used = _ask_gpu(spec["visible"], *leave)
            if used:
                return IN_USE
            code = {f"{protocol.CODE}/{path}": content for path, content in files.items()}
            make_folder(folder, code, {protocol.SPEC: spec, HOST: {"boot": _boot()}})
        if (folder / protocol.ABANDONED).exists() or size(folder / protocol.LOCK):
            return ""
        launcher = shlex.join([sys.executable, "-m", "autoresearch_mcp.trainer.launch", str(folder)])
        ending = f"trap {shlex.quote(f'echo $? > {shlex.quote(str(folder / EXITED))}')} EXIT"  # also where one of these lines ends it
        _detach("\n".join([ending, *before, f"nice -n {nice} {launcher}"]), folder / OUTPUT, spec["threads"])
    except OSError as error:
        return f"the run's files could not be written there: {error}. Is the disk full?"
    return ""


def _await_short(begun: list[Path]) -> None:
    """Wait a moment for runs that have just begun to end, which spares the lab a second request."""
    from autoresearch_mcp.trainer import protocol

    deadline = time.monotonic() + _SHORT_S
    while time.monotonic() < deadline and not all((run / protocol.RESULT).exists() or (run / EXITED).exists() for run in begun):
        time.sleep(0.01)


def _ask_gpu(gpu: str, most_mb: float, most_percent: float) -> tuple[str, bool]:
    """Return a GPU's UUID, since CUDA numbers GPUs in another order than NVIDIA's tool, and whether somebody uses it.

    No run of ours has it. Without the tool nobody can tell, and the number has to do. One that doesn't answer counts as used.
    """
    tool = shutil.which("nvidia-smi") if gpu else None
    if tool is None:
        return gpu, False
    command = [tool, f"--id={gpu}", "--query-gpu=uuid,memory.used,utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        uuid, *numbers = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GPU_S).stdout.split(",")
    except subprocess.TimeoutExpired:
        return gpu, True
    used = [float(number) if number.strip().replace(".", "").isdigit() else 0.0 for number in numbers]  # "[N/A]" of a slice
    return uuid.strip() if numbers else gpu, any(number > most for number, most in zip(used, (most_mb, most_percent)))


def _adopt(folder: Path) -> bool:
    """Return whether a launcher has the run, or left a result. If neither, forbid it under the launcher's own lock."""
    from autoresearch_mcp.trainer import files, protocol

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / protocol.LOCK).open("a+b") as lock:
        if not files.try_process_lock(lock) or (folder / protocol.RESULT).exists():
            return True
        (folder / protocol.ABANDONED).touch()
    return False


def _cancel(folder: Path) -> None:
    from autoresearch_mcp.trainer import files, protocol

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / protocol.CANCEL).touch()
    if files.is_process_locked(folder / protocol.LOCK):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / protocol.LOCK).read_text(encoding="ascii")), signal.SIGTERM)
    else:
        _adopt(folder)


def _remove(folder: Path) -> None:
    """Empty the folder of a run that has ended, and leave the mark that it must not begin again."""
    from autoresearch_mcp.trainer import files, protocol

    if not folder.exists() or (_adopt(folder) and files.is_process_locked(folder / protocol.LOCK)):
        return
    (folder / protocol.ABANDONED).touch()
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != protocol.ABANDONED:
            entry.unlink(missing_ok=True)


def _look(folder: Path, log: int, curve: int) -> dict[str, Any]:
    """Tell how a run is, and what its files have grown by."""
    from autoresearch_mcp.trainer import files, protocol

    # The order matters: a launcher locks, writes its id into the lock, works, writes the result, lets go.
    forbidden = (folder / protocol.ABANDONED).exists()
    begun, exited = files.size(folder / protocol.LOCK) > 0, (folder / EXITED).exists()
    alive = files.is_process_locked(folder / protocol.LOCK)
    look = {"forbidden": forbidden, "begun": begun, "alive": alive, "exited": exited, **grown(folder, log, curve, protocol.LOCK)}
    if look["more"]:
        look["alive"] = True  # not ended before all of it is fetched
    if exited and not begun:
        look["output"] = last_words(folder / OUTPUT)
    if begun and not alive:
        look["rebooted"] = (protocol.read_json(folder / HOST) or {}).get("boot") != _boot()
    return look


def _detach(text: str, log: Path, threads: int = 1) -> int:
    """Run shell lines in a session of their own, which outlives this process and the line to the lab."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            ["/bin/sh", "-c", text],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
            start_new_session=True,
        ).pid


def _alive(pid: Path) -> bool:
    try:
        os.killpg(int(pid.read_text(encoding="ascii")), 0)
    except (OSError, ValueError):
        return False
    return True


def _clock() -> int:
    """Return the second of this host's day."""
    now = time.localtime()
    return (now.tm_hour * 60 + now.tm_min) * 60 + now.tm_sec


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _differing(one: dict[str, str], other: dict[str, str]) -> str:
    return ", ".join(sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name)))


def main() -> None:
    """Answer the request that follows the sources."""
    speak(answer)
