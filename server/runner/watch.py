"""Notices what happens to the lab around its runner: lab.toml changes, or the lab's folder is moved or removed."""

import logging
import os
from typing import IO, Literal

from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.settings import Settings, SettingsFile

Outcome = Literal["idle", "stopped", "moved", "new settings"]
"""Why a runner's loop ended."""

_log = logging.getLogger("autoresearch.runner")


class LabMoved(Exception):
    """The lab is no longer where it was when its runner started. What fails now is nobody's fault, and nothing is recorded."""


class SettingsChanged(Exception):
    """lab.toml holds other settings than those that the runner works with."""


class LabWatch:
    """Compares the lab with what it was when its runner started. A comparison costs microseconds.

    Args:
        paths: where the lab was.
        file: its settings, read again when it changes.
        settings: those that the runner works with, as they were read from the file.
        lock: the runner's lock, which goes where the lab goes.
    """

    def __init__(self, paths: LabPaths, file: SettingsFile, settings: Settings, lock: IO[str]) -> None:
        self._paths = paths
        self._file = file
        self._settings = settings
        self._problem = ""
        self._lock = os.fstat(lock.fileno())

    @property
    def settings(self) -> Settings:
        """The settings that the runner works with, as they were read from the file."""
        return self._settings

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
        settings = self._file.current()
        if settings is not self._settings and settings != self._settings:
            raise SettingsChanged
        if (problem := self._file.problem()) != self._problem:
            self._problem = problem
            if problem:
                _log.warning("the settings stay as they were: %s", problem)
