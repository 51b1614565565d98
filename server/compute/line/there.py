"""Runs on a machine behind ssh, beside the module of the backend that asks. ssh sends both with each request: see `Ssh.ask`.

So they need nothing there but a Python to say what is missing, and once it has said that nothing is, our trainer. A backend's module may take
names of this one as `from ... import name`, which needs no package there; nothing else of the server's.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CHUNK = 256 * 1024  # bytes of a growing file in one answer
MODELS = ("torch", "numpy", "safetensors", "tiktoken")  # packages that trainings under the contract need
_OLDEST = (3, 11)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Tell what this machine has for trainings, and which of the wanted packages it lacks; or why it can do nothing for the lab."""
    return refusal(request) or check(request["check"], request.get("training", ""))


def refusal(request: dict[str, Any]) -> dict[str, Any]:
    """Return as `{"refused"}` why this machine can do nothing for the lab; nothing where it can."""
    if sys.version_info[:2] < _OLDEST:
        return {"refused": f"its Python is {sys.version_info[0]}.{sys.version_info[1]}, and 3.11 is needed"}
    try:
        from autoresearch_mcp.trainer import prepare
    except ImportError as error:
        return {"refused": f"autoresearch-mcp is not installed for {sys.executable} ({error})"}
    if prepare.fixed_hash() != request["fixed"]:
        return {"refused": f"another version of autoresearch-mcp is installed for {sys.executable}"}
    return {}


def folder_of(request: dict[str, Any]) -> Path:
    """Return the folder of the lab that asks, which is made if it is missing."""
    root = Path(request["folder"]).expanduser() / f"lab-{request['lab']}"
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    return root


def check(wanted: Sequence[str], training: str) -> dict[str, Any]:
    """Tell how trainings are confined here, which of the packages are missing, and why `training`, an interpreter of lab.toml, can't run."""
    from autoresearch_mcp.trainer import sandbox

    seen = {"sandbox": sandbox.level(), "missing": lacking(wanted), "python": sys.executable, "kernel": platform.release()}
    return {**seen, "unfit": unfit(training) if training else ""}


def unfit(python: str) -> str:
    """Return why the interpreter that lab.toml names for trainings can't run here; empty where it can."""
    from autoresearch_mcp.trainer import failures, script

    try:
        script.interpreter(interpreter_of(python))
    except failures.Ended as ended:
        return ended.failure.message if ended.failure else "no answer"
    return ""


def interpreter_of(python: str) -> str:
    """Return the path of an interpreter on this machine, which may be named by its virtual environment."""
    path = Path(python).expanduser()
    return str(path / "bin" / "python" if path.is_dir() else path)


def lacking(wanted: Sequence[str]) -> list[str]:
    """Return which packages are not installed for this Python."""
    return [name for name in wanted if importlib.util.find_spec(name) is None]


def prepared(folder: Path) -> dict[str, Any]:
    """Tell how a preparation went that has ended."""
    from autoresearch_mcp.trainer import prepare

    if (folder / "status").read_text(encoding="ascii").strip() != "0":
        lines = (folder / "err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"failed": lines[-1] if lines else "it printed nothing"}
    data = (folder / "out").read_text(encoding="utf-8").strip().splitlines()[-1]
    return {"data": data, "hashes": prepare.data_hashes(Path(data))}


def make_folder(folder: Path, contents: dict[str, str], records: dict[str, Any]) -> None:
    """Make a run's folder, whole at once, unless another request does.

    Args:
        folder: Where.
        contents: Of its files by path, in base64.
        records: Of its JSON files by name.
    """
    from autoresearch_mcp.trainer import protocol

    staging = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        staging.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, content in contents.items():
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.touch(mode=0o600)
            target.write_bytes(base64.b64decode(content))
        for name, record in records.items():
            protocol.write_json(staging / name, record)
        staging.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def grown(folder: Path, log: int, curve: int, first: str) -> dict[str, Any]:
    """Tell what a run's files have grown by, and its result once all of them is told.

    Args:
        folder: The run's.
        log: Bytes of its log that the lab has.
        curve: Bytes of its loss curve that the lab has.
        first: The file that was made as it began.
    """
    from autoresearch_mcp.trainer import files, protocol

    result = protocol.read_json(folder / protocol.RESULT)  # before the rest is read: then that is whole
    look: dict[str, Any] = {"more": False}
    for name, at in ((protocol.LOG, log), (protocol.CURVE, curve)):
        with contextlib.suppress(FileNotFoundError), (folder / name).open("rb") as file:
            file.seek(at)
            added = file.read(CHUNK)
            look["more"] = look["more"] or bool(file.read(1))
            if added:
                look[name] = base64.b64encode(added).decode()
    look["progress"] = protocol.read_json(folder / protocol.PROGRESS)
    if files.size(folder / first):
        until = (folder / protocol.RESULT).stat().st_mtime if result else time.time()
        look["held_s"] = max(0.0, until - (folder / first).stat().st_mtime)
    if result and not look["more"]:
        look |= {"result": result, "hidden": protocol.read_json(folder / protocol.HIDDEN)}
    return look


def last_words(file: Path) -> str:
    """Return the last lines of a file as one; empty where it is missing."""
    try:
        return " / ".join(file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])[-400:]
    except OSError:
        return ""


def main(answer: Callable[[dict[str, Any]], dict[str, Any]] = answer) -> None:
    """Read the request that follows the sources, and answer between two marks, which no login profile prints."""
    request = json.loads(sys.stdin.buffer.read())
    mark = request["mark"]
    sys.stdout.write(f"\n{mark}{json.dumps(answer(request))}{mark}\n")
    sys.stdout.flush()
