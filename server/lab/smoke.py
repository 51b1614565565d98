"""Smoke starts: a new proposal is started for a moment, outside the queue, so that what dies at once is told at once."""

import asyncio
import os
import time

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.masking import mask_paths
from autoresearch_mcp.server.lab.preflight import missing_packages
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.untrusted import one_line
from autoresearch_mcp.trainer import files, prepare

MOST_S = 5.0  # that a proposal waits for it, whatever the machine does
TRAINS_S = 1.0  # of the profile's clock: the first steps
_ASK_S = 0.05  # between two looks whether another smoke start has ended
_LINES = 6  # of the code and log


class SmokeStarts:
    """One at a time in a lab, in the sandbox of a run, at the lowest priority, so only where a core is free. Nothing of it is recorded."""

    def __init__(self, core: LabCore) -> None:
        self._core = core

    def failure(self, commit: str) -> str:
        """Start a commit's code, and say how it died; empty where it didn't within its time, or where that can't be told.

        Args:
            commit: its full id.
        """
        if not self._core.settings.smokes or not self._can():
            return ""
        deadline = time.monotonic() + MOST_S
        with StatePaths(self._core.state).smoke_lock.open("a", encoding="utf-8") as lock:
            while not files.try_lock(lock):
                if time.monotonic() > deadline:
                    return ""
                time.sleep(_ASK_S)
            return self._try(commit, deadline)

    def _can(self) -> bool:
        """Return whether a smoke start would get anywhere: the data is prepared, and not every core trains already."""
        settings = self._core.settings
        try:
            data = prepare.data_dir(settings.training.profile, settings.training.limits.own)
        except prepare.PreparationError:
            return settings.is_script
        ready = settings.is_script or (not missing_packages() and (data / prepare.META).exists())
        training = len(self._core.ledger.open_experiments("running"))
        return ready and training * settings.training.threads < (os.cpu_count() or 1)

    def _try(self, commit: str, deadline: float) -> str:
        from autoresearch_mcp.server.compute.local.short_run import short_run

        core, settings = self._core, self._core.settings
        others = core.repo.other_files(commit, settings.training.files) if settings.training.files else {}
        code = {**others, **core.repo.editable_files(commit)}

        async def short() -> str:
            async with asyncio.timeout(deadline - time.monotonic()):
                run = await short_run(settings, core.state, code, TRAINS_S, most_s=MOST_S, nice=True)
            if run.failure is None or run.fault != "code":
                return ""
            lines = "\n".join(run.failure.lines[-_LINES:])
            told = f"{run.failure.kind}: {run.failure.message}" + (f"\n{lines}\n" if lines else " ") + run.failure.advice
            return mask_paths(told, core.root)

        try:
            return asyncio.run(short())
        except (TimeoutError, ComputeError, OSError):
            return ""


def in_words(failure: str, launched: bool) -> str:
    """Return what to tell of a proposal that died in its smoke start.

    Args:
        failure: of `SmokeStarts.failure`.
        launched: whether trainings of it were asked for.
    """
    rest = "Nothing was queued. " if launched else ""
    return (
        f"Started for a moment, it died: {one_line(failure, 1_500)} {rest}Propose a mended version; launch_training trains this one anyway."
    )
