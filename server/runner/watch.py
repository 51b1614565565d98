"""Notices what happens to the lab around its runner: lab.toml changes, or the lab's folder is moved or removed."""

import logging
import os
from pathlib import Path
from typing import IO, Literal

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths

Outcome = Literal["idle", "stopped", "moved", "new settings"]
"""Why a runner's loop ended."""

_log = logging.getLogger("autoresearch.runner")


class LabMoved(Exception):
    """The lab is no longer where the runner found it: whatever fails now is nobody's fault, and nothing is recorded."""


class SettingsChanged(Exception):
    """lab.toml holds other settings than those that the runner works with."""


class LabWatch:
    """Compares the lab with what it was when its runner started. Looks cost microseconds.

    Args:
        paths: where the lab was.
        settings: its settings.
        lock: the runner's lock, which goes where the lab goes.
    """

    def __init__(self, paths: LabPaths, settings: lab_settings.Settings, lock: IO[str]) -> None:
        self._paths = paths
        self._settings = settings
        self._lock = os.fstat(lock.fileno())
        self._stamp: tuple[int, int, int] | None = None  # unknown: the settings were read before the first look

    def check_place(self) -> None:
        """Raise unless the lab is where it was.

        Raises:
            LabMoved: it was moved or removed. Another lab may be in its place.
        """
        try:
            here = os.path.samestat(self._paths.runner_lock.stat(), self._lock)
        except OSError:
            here = False
        if not here:
            raise LabMoved(f"There is no longer the lab that was in {self._paths.root}.")

    def check_settings(self) -> None:
        """Raise if lab.toml holds other settings than the runner's. An invalid file changes nothing.

        Raises:
            SettingsChanged: a loop with the new settings is due.
        """
        stamp = _stamp(self._paths.settings)
        if stamp is None or stamp == self._stamp:
            return
        try:
            changed = lab_settings.load(self._paths.root) != self._settings
        except LabError as error:
            _log.warning("the settings stay as they were: %s", error)
            changed = False
        if changed:
            raise SettingsChanged
        self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
