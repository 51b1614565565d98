"""A try: code of a folder trains for a few seconds, at once, outside the queue and without a score.

Promises: one at a time in a lab, at the lowest priority, in the sandbox and under the limits of any training, with the same data: none
of it is held-out. Nothing is recorded. Where the owner wants none (`[compute] try = false`), or paused the lab, there is none.
"""

import asyncio
from collections.abc import Mapping

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.local.short_run import ShortRun, short_run
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.findings import Finding, findings_of
from autoresearch_mcp.server.models import ExperimentState
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.proposals import source
from autoresearch_mcp.trainer import files as locks

MOST_S = 10.0  # of training
MOST_WALL_S = 30.0  # in all: to start takes most of it on a busy machine
MOST_FILES = 200
_SHOWN = 8  # paths in a note
_AT_WORK: tuple[ExperimentState, ...] = ("starting", "running", "scoring")


class Trying:
    """The use case.

    Args:
        core: the lab's stores.
    """

    def __init__(self, core: LabCore) -> None:
        self._core = core

    def try_code(self, base: str, changes: Mapping[str, str | None], seconds: float) -> list[Finding]:
        """Train a commit with some files changed for a few seconds. Takes as long.

        Args:
            base: the commit.
            changes: new texts of files by path; None for one that is gone.
            seconds: of training, at most `MOST_S`.

        Returns:
            How it went: the first error, steps, memory.

        Raises:
            LabError: `no_try`, `busy`, `paused`, `too_large`, `unknown_commit`, and those of `source.decode`.
        """
        core, settings = self._core, self._core.settings
        if not settings.compute.may_try:
            raise LabError("This lab's owner lets nothing be tried: [compute] try is false. Propose and launch it.", "no_try")
        if core.ledger.paused_at() is not None:
            raise LabError("The lab is paused, so nothing is tried. `autoresearch-mcp resume` is its owner's.", "paused")
        if (settings.hands_out_devices or settings.device == "mps") and core.ledger.open_experiments(*_AT_WORK, limit=1):
            raise LabError("The GPUs are at work. Try again later, or propose and launch it.", "busy")
        if len(changes) > MOST_FILES:
            raise LabError(f"{len(changes)} files changed; a try takes at most {MOST_FILES}. Commit less.", "too_large")
        sha, repo = core.commit(base), core.repo
        code = {**(repo.other_files(sha, settings.training.files) if settings.training.files else {}), **repo.editable_files(sha)}
        for path in (path for path in changes if path in repo.editable):
            text = changes[path]
            if text is None:
                code.pop(path, None)
                continue
            data = text.encode("utf-8", "surrogatepass")
            if len(data) > source.MAX_FILE:
                raise LabError(f"{path} has {len(data):,} bytes; the cap is {source.MAX_FILE:,}. Make it smaller.", "too_large")
            source.decode(path, data)
            code[path] = data
        left_out = sorted(path for path in changes if path not in repo.editable)
        notes = [Finding("files", "note", f"not editable, so as at {sha[:12]}: {', '.join(left_out[:_SHOWN])}")] if left_out else []
        return [*notes, *findings_of(self._train(code, min(seconds, MOST_S)), settings, seconds)]

    def _train(self, code: Mapping[str, bytes], seconds: float) -> ShortRun:
        paths = StatePaths(self._core.state)
        with paths.try_lock.open("a", encoding="utf-8") as lock:
            if not locks.try_lock(lock):
                raise LabError("Another try runs, and there is one at a time: try again in some seconds.", "busy")
            try:
                return asyncio.run(short_run(self._core.settings, paths.state, code, seconds, most_s=MOST_WALL_S, nice=True))
            except ComputeError as error:
                raise LabError(str(error), "no_try") from None
