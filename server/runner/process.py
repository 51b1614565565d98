"""The runner as a process: one a lab by a file lock (`lock.py`), started on demand (`start.py`), nobody's child, gone when idle."""

import asyncio
import logging
import os
import signal
from pathlib import Path

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.logs import log_to_stderr
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.start import got_to_work
from autoresearch_mcp.server.runner.watch import LabWatch, Outcome
from autoresearch_mcp.server.tracing import exporting

_log = logging.getLogger("autoresearch.runner")


def main(root: Path) -> int:
    """Be the lab's runner until there is nothing to do. Exits at once, quietly, if there is one already.

    Args:
        root: the lab's directory.

    Returns:
        The exit status.

    Raises:
        LabError: the lab can't be opened; the text says why.
    """
    log_to_stderr(logging.INFO)
    with exporting("autoresearch-runner"):
        return _work(LabPaths(root))


def _work(paths: LabPaths) -> int:
    file = lab_settings.SettingsFile(paths.root)  # before the lock, which only a runner that can work may hold
    while True:
        with runner_lock(paths.state, patience_s=1.0) as lock:  # a process that only tests it holds it for microseconds
            if lock is None:
                got_to_work(paths.state)  # another one did
                return 0
            paths.runner_lock.write_text(str(os.getpid()), encoding="ascii")
            settings = file.current()
            ledger = Ledger(paths.ledger)
            launch = ledger.next_launch()
            under = settings.under(launch) if launch is not None else settings  # what was reserved is what runs
            outcome = asyncio.run(_drive(under, paths, ledger, LabWatch(paths, file, settings, lock)))
        # A server that saw the lock held may have queued work after the last round.
        queued = ledger.open_experiments(limit=1) or ledger.open_candidacies(limit=1) or ledger.open_sweeps(limit=1)
        more = outcome == "new settings" or (outcome == "idle" and bool(queued))
        ledger.close()
        if not more:
            return 0


async def _drive(settings: lab_settings.Settings, paths: LabPaths, ledger: Ledger, watch: LabWatch) -> Outcome:
    """Run the loop once, with these settings. Returns why it ended."""
    from autoresearch_mcp.server.compute import open_compute
    from autoresearch_mcp.server.lake import open_lake
    from autoresearch_mcp.server.proposals.repo import Repo
    from autoresearch_mcp.server.runner.loop import Runner
    from autoresearch_mcp.server.search.embedding import open_embedder

    lake = open_lake(settings, paths.state, open_embedder(settings.embeddings))
    repo = Repo(paths.root, settings.training.editable)
    compute = open_compute(settings, paths.state, paths.runner_log)
    runner = Runner(settings, paths.state, ledger, repo, lake, compute, watch)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, runner.stopping.set)
    try:
        return await runner.run()
    finally:
        lake.close()
