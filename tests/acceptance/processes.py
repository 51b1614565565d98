"""The processes of a lab, found as an operator would find them: by their command line, and by who holds a run's lock."""

import fcntl
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Literal


def processes(root: Path, command: Literal["serve", "runner"]) -> list[int]:
    """Those that run this command of the lab."""
    lines = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [int(line.split()[0]) for line in lines if line.endswith(f"autoresearch_mcp.server.cli {command} {root}")]


def launchers(root: Path) -> list[int]:
    """Supervisors of trainings: whoever holds the lock of a run directory."""
    pids = []
    for lock in root.glob(".autoresearch/runs/*/*/launcher.lock"):
        with lock.open("r+", encoding="ascii") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                with suppress(ValueError):  # it has not written its id yet
                    pids.append(int(file.read()))
    return pids
