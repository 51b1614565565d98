"""Removes old run directories and keeps the runner's log short, as `[lab] keep_runs_days` and `keep_runs_mb` say.

Results, the end of each log and the loss curve stay: they are in the ledger and the lake. Never removed are the runs of
- the champion and of every commit that was promoted, or was champion when one was;
- experiments that have not ended, are not in the lake yet, or whose bill is not settled;
- experiments that the ledger doesn't know.
"""

import asyncio
import contextlib
import logging
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.log import rotate
from autoresearch_mcp.server.settings import LabSection

SWEEP_EVERY_S = 3600.0
BUSY_SWEEP_S = 6 * 3600.0  # without a quiet moment for so long, old runs are removed beside others
_MB = 1_000_000
_BATCH = 1000  # ids a query

_log = logging.getLogger("autoresearch.runner")


@dataclass(frozen=True)
class _Run:
    directory: Path
    finished_at: float
    size: int


class Retention:
    """Removes what a lab need not keep. Only the runner's loop calls it."""

    def __init__(self, keep: LabSection, state: Path, ledger: Ledger, repo: Repo) -> None:
        self._keep = keep
        self._paths = StatePaths(state)
        self._ledger = ledger
        self._repo = repo
        self._due = 0.0
        self._overdue = time.monotonic() + BUSY_SWEEP_S
        self._under_way: asyncio.Task[None] | None = None

    def start_if_due(self, quiet: bool) -> None:
        """Start a sweep beside the rounds if one is due.

        Args:
            quiet: whether no experiment is open.
        """
        now = time.monotonic()
        if now < self._due or not (quiet or now >= self._overdue) or (self._under_way is not None and not self._under_way.done()):
            return
        self._due, self._overdue = now + SWEEP_EVERY_S, now + BUSY_SWEEP_S
        self._under_way = asyncio.create_task(self._sweep())

    async def wait(self) -> None:
        """Wait for the sweep under way."""
        if self._under_way is not None:
            await self._under_way

    async def _sweep(self) -> None:
        try:
            await asyncio.to_thread(rotate, self._paths.runner_log)
            await asyncio.to_thread(self._remove_old_runs)
        except Exception:  # nobody needs this task's result
            _log.exception("old runs could not be removed, and are looked at again later")

    def _remove_old_runs(self) -> None:
        runs = self._runs()
        total, limit = sum(run.size for run in runs), self._keep.keep_runs_mb * _MB
        too_old = time.time() - self._keep.keep_runs_days * 86_400
        removed = 0
        for run in sorted(runs, key=lambda run: run.finished_at):
            if (run.finished_at >= too_old and total <= limit) or math.isinf(run.finished_at):
                break
            shutil.rmtree(run.directory, ignore_errors=True)
            total, removed = total - run.size, removed + 1
        if removed:
            _log.info("removed %d old run directories; their results, the ends of their logs and their curves stay", removed)

    def _runs(self) -> list[_Run]:
        """List all run directories. Those that must stay are finished in infinity."""
        directories = {path.name: path for path in self._paths.runs.glob("*") if path.is_dir()}
        ids = list(directories)
        ended: dict[str, dict[str, Any]] = {}
        for first in range(0, len(ids), _BATCH):
            ended |= self._ledger.ended(ids[first : first + _BATCH])
        protected = self._protected()
        return [
            _Run(path, ended[id]["finished_at"] if id in ended and id not in protected else math.inf, _size(path))
            for id, path in directories.items()
        ]

    def _protected(self) -> set[str]:
        promotions = [*self._ledger.promotions(), *self._ledger.promotions(done=False)]
        commits = {self._repo.champion(), *(p.commit for p in promotions), *(p.previous for p in promotions)}
        proven = {row["id"] for commit in commits for row in self._ledger.ended_of(commit)}
        unflushed = {record.id for record in self._ledger.outbox("experiments")}
        return proven | unflushed | {id for id, _ in self._ledger.unsettled(math.inf)}


def _size(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_size
    return total
