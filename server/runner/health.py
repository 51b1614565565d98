"""What the runner tells the lab's servers about itself: rounds that failed, and data in preparation.

The file is written in place, in one block that was allocated before: a full disk, which makes rounds fail, doesn't keep the runner
from saying so.
"""

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.untrusted import file_names_only

_BLOCK = 4096


@dataclass
class Health:
    """How the runner is.

    Attributes:
        failed_rounds: rounds that failed in a row.
        failing_since: when the first of them failed; seconds since the epoch.
        error: why the last of them failed.
        preparing_since: when the preparation of the data began that is under way, or 0.
        troubles: what the place where trainings run, and the log, have to say.
    """

    failed_rounds: int = 0
    failing_since: float = 0.0
    error: str = ""
    preparing_since: float = 0.0
    troubles: list[str] = field(default_factory=list)


class HealthFile:
    """The runner's side of the file."""

    def __init__(self, state: Path) -> None:
        self._path = StatePaths(state).runner_health
        self._health = Health()
        self._write()

    def round_failed(self, error: str) -> None:
        """Count a round that failed."""
        health = self._health
        health.failed_rounds, health.error = health.failed_rounds + 1, error[:1000]
        health.failing_since = health.failing_since or time.time()
        self._write()

    def round_done(self, troubles: list[str]) -> None:
        """Forget the rounds that failed: one went well.

        Args:
            troubles: what the place where trainings run, and the log, have to say now.
        """
        troubles = [text[:500] for text in troubles[:3]]
        if self._health.failed_rounds or self._health.troubles != troubles:
            self._health = Health(preparing_since=self._health.preparing_since, troubles=troubles)
            self._write()

    def preparing(self, under_way: bool) -> None:
        """Say whether the data is being prepared."""
        if under_way != bool(self._health.preparing_since):
            self._health.preparing_since = time.time() if under_way else 0.0
            self._write()

    def _write(self) -> None:
        text = json.dumps(asdict(self._health)).encode()
        with contextlib.suppress(OSError):  # servers then know less; nothing else depends on it
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(descriptor, text.ljust(_BLOCK), 0)
            finally:
                os.close(descriptor)


def tell(state: Path) -> tuple[list[str], list[str]]:
    """Return what is wrong with a lab's runner, and what it is busy with beside experiments, in sentences.

    Ask only while it is alive: one that was killed left its last words.
    """
    health = _read(state)
    warnings, news = [], []
    if health.failed_rounds:
        warnings.append(
            f"The runner has failed {health.failed_rounds} rounds in a row, for {_minutes(health.failing_since)}: "
            f"{file_names_only(health.error)} It tries again by itself; nothing that was recorded is lost. See .autoresearch/runner.log."
        )
    warnings += health.troubles
    if health.preparing_since:
        news.append(
            f"The runner is preparing data (for {_minutes(health.preparing_since)} now): queued experiments start when it is there, and "
            "it costs them nothing. Cancel all of them to end it."
        )
    return warnings, news


def _read(state: Path) -> Health:
    try:
        return Health(**json.loads(StatePaths(state).runner_health.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Health()


def _minutes(since: float) -> str:
    return f"{max(0.0, time.time() - since) / 60:.0f} min"
