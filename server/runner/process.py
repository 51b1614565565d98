"""The runner as a process: one a lab by a file lock, started on demand, nobody's child, gone when idle."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths, StatePaths
from autoresearch_mcp.trainer import files


@contextlib.contextmanager
def runner_lock(state: Path, patience_s: float = 0.0) -> Iterator[bool]:
    """Try to become the lab's runner. Yields whether this process now is it."""
    deadline = time.monotonic() + patience_s
    with StatePaths(state).runner_lock.open("a+", encoding="ascii") as file:
        while not (mine := _locked(file)) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield mine


def _locked(file: IO[str]) -> bool:
    if not files.try_lock(file):
        return False
    file.truncate(0)  # the process id of a runner that is gone
    return True


def runner_alive(state: Path) -> bool:
    """Whether some process is the lab's runner. Looks with a shared lock, so that no look is taken for a runner by another."""
    try:
        with StatePaths(state).runner_lock.open("a+", encoding="ascii") as file:
            return not files.try_lock(file, shared=True)
    except OSError:
        return False


def stop_runner(state: Path) -> None:
    """Ask the lab's runner to leave, and wait until it has. Trainings run on; the next runner adopts them."""
    with contextlib.suppress(FileNotFoundError), StatePaths(state).runner_lock.open("r+", encoding="ascii") as file:
        while not _locked(file):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(StatePaths(state).runner_lock.read_text(encoding="ascii")), signal.SIGTERM)
            time.sleep(0.02)


def ensure_runner(root: Path, state: Path) -> bool:
    """Start the lab's runner if there is none. Call it after the work was recorded: a runner looks for work once more after it let go of its lock.

    Returns whether one is there or on its way. A start that fails is logged, no error: the work stays recorded, and the next call tries again.
    """
    if runner_alive(state):
        return True
    # A small interpreter forks and leaves, so that the runner is nobody's child: no zombie here, no signal to it from there.
    detach = "import os, sys\nif os.fork() == 0:\n    os.setsid()\n    os.execv(sys.argv[1], sys.argv[1:])"
    try:
        with StatePaths(state).runner_log.open("ab") as log:
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", detach, sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "runner", str(root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                env=os.environ | import_environment(),
            )
    except (OSError, subprocess.CalledProcessError) as error:
        logging.getLogger(__name__).warning("the runner did not start: %s", error)
        return False
    return True


def main(root: Path) -> int:
    """Be the lab's runner until there is nothing to do. Exits at once, quietly, if there is one already."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    paths = LabPaths(root)
    while True:
        with runner_lock(paths.state, patience_s=1.0) as mine:  # whoever only looks holds it for microseconds
            if not mine:
                return 0
            paths.runner_lock.write_text(str(os.getpid()), encoding="ascii")
            settings = lab_settings.load(root)
            ledger = Ledger(paths.ledger)
            stopped = asyncio.run(_drive(root, settings, paths.state, ledger))
        # Work may have come between the last look and the release of the lock, by a server that saw the lock held.
        more = bool(ledger.open_experiments())
        ledger.close()
        if stopped or not more:
            return 0


async def _drive(root: Path, settings: lab_settings.Settings, state: Path, ledger: Ledger) -> bool:
    """Returns whether a signal asked it to stop."""
    from autoresearch_mcp.server.compute import open_compute
    from autoresearch_mcp.server.lake import open_lake
    from autoresearch_mcp.server.proposals.repo import Repo
    from autoresearch_mcp.server.runner.loop import Runner
    from autoresearch_mcp.server.search.embedding import open_embedder

    lake = open_lake(settings, state, open_embedder(settings.embeddings))
    repo = Repo(root, settings.training.editable)
    runner = Runner(settings, state, ledger, repo, lake, open_compute(settings, state, StatePaths(state).runner_log))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, runner.stopping.set)
    try:
        await runner.run()
    finally:
        lake.close()
    return runner.stopping.is_set()
