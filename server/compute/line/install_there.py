"""Installs our program on a host. ssh sends this source there, to whatever Python is there first; nothing of ours is there yet."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_LOOK = "import sys, importlib.util as u; print(int(sys.version_info >= (3, 11)), int(u.find_spec('torch') is not None))"


def install(python: str, name: str, wheel: str) -> dict[str, Any]:
    """Make the environment unless it is there, and install the wheel into it, over what was there of ours.

    Returns:
        Where the environment is, and what it was built on; or `failed`, with the reason.
    """
    home = Path("~/.autoresearch-mcp").expanduser()
    home.mkdir(mode=0o700, exist_ok=True)
    ours, file = home / "venv" / "bin" / "python", home / name
    chosen = ""
    busy = _busy(ours) if ours.exists() else ""
    if busy:
        return {"failed": f"{busy}, and would find another program in the middle. Let them end or cancel them, then run this again"}
    if not ours.exists():
        chosen = _choose(python)
        if not chosen:
            return {
                "failed": "there is no Python 3.11 or newer "
                + (f"there at {python}" if python else "in PATH there: name one with --python")
            }
        failure = _run(chosen, "-m", "venv", "--system-site-packages", str(home / "venv"))
        if failure:
            shutil.rmtree(home / "venv", ignore_errors=True)  # it has a Python already, and the next try would take it as it is
            hint = ", as it lacks ensurepip (Debian: apt install python3-venv)" if "ensurepip" in failure else ""
            return {"failed": f"{chosen} could make no environment there{hint}: {_last(failure)}"}
    file.write_bytes(base64.b64decode(wheel))
    try:
        for arguments in (["--force-reinstall", "--no-deps", str(file)], [f"{file}[local,sklearn]"]):
            failure = _run(str(ours), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)
            if failure:
                return {"failed": f"pip failed there: {_last(failure)}"}
    finally:
        file.unlink()
    return {"environment": str(home / "venv"), "from": chosen}


def _busy(ours: Path) -> str:
    """Return which trainings use the program that is there: processes of this machine, or the user's jobs in Slurm."""
    runs = 0
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        runs += str(ours).encode() in words and b"autoresearch_mcp.trainer.launch" in words
    jobs = 0
    if shutil.which("squeue"):
        command = ["squeue", "--noheader", "--me", "--format=%j"]
        names = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout.split()
        jobs = sum(name.startswith("ar-") for name in names)
    told = [f"{n} {what}" + ("" if n == 1 else "s") for n, what in ((runs, "training"), (jobs, "job")) if n]
    return f"the program there is in use by {' and '.join(told)}" if told else ""


def _choose(python: str) -> str:
    """Return the Python to build on: the one that was named, else one that has torch, else the newest."""
    suitable = []
    for name in [python] if python else ["python3.13", "python3.12", "python3.11", "python3", "python"]:
        path = shutil.which(str(Path(name).expanduser()) if "/" in name else name)
        looked = subprocess.run([path, "-c", _LOOK], capture_output=True, text=True, check=False).stdout.split() if path else []
        if path and looked[:1] == ["1"]:
            suitable.append((looked[1:] == ["1"], path))
    return next((path for torch, path in suitable if torch), suitable[0][1] if suitable else "")


def _run(*command: str) -> str:
    """Run a command. Returns what it printed if it fails, else nothing."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return (done.stderr or done.stdout or "it printed nothing") if done.returncode else ""


def _last(text: str) -> str:
    return text.strip().rpartition("\n")[2][:300]


def main() -> None:
    """Read the request that follows this source, and answer between two marks."""
    request = json.loads(sys.stdin.buffer.read())
    mark = request.pop("mark")
    sys.stdout.write(f"\n{mark}{json.dumps(install(**request))}{mark}\n")
    sys.stdout.flush()
