"""Reads `lab.toml` again when it changes, so that an owner's edit takes effect at once."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.settings.loading import load
from autoresearch_mcp.server.settings.model import Settings

_SETTLED_NS = 100_000_000  # a file that changed less than this ago may change again within one tick of the file system's clock

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class _Reading:
    stamp: Stamp | None  # of the file before it was read; None: read it again next time
    settings: Settings
    problem: str = ""


class SettingsFile:
    """The settings in `lab.toml` of the lab in `root`, read again when the file changes. Thread-safe.

    An edit that is not valid changes nothing: the settings from before it still hold.

    Args:
        root: the lab's directory.

    Raises:
        LabError: `not_a_lab`, `newer_lab` or `bad_settings`, where the file can't be used from the start.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = str(LabPaths(root).settings)
        self._turn = threading.Lock()
        stamp = self.stamp()
        self._reading = _Reading(stamp, load(root))

    def current(self) -> Settings:
        """Return the settings of now. Costs microseconds while the file stays as it is."""
        return self._read().settings

    def problem(self) -> str:
        """Return why the last edit changes nothing; empty if it is valid."""
        return self._read().problem

    def _read(self) -> _Reading:
        if self._reading.stamp != (stamp := self.stamp()) or stamp is None:
            with self._turn:
                if self._reading.stamp != stamp or stamp is None:
                    self._reading = self._read_again(stamp)
        return self._reading

    def _read_again(self, stamp: Stamp | None) -> _Reading:
        before = self._reading
        try:
            settings = load(self._root)
        except LabError as error:
            return _Reading(stamp, before.settings, str(error))
        return _Reading(stamp, settings if settings != before.settings else before.settings)

    def stamp(self) -> Stamp | None:
        """Return what differs once the file was written again. None where it can't be told, or it was written just now."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 -- a third of the time, and every call looks several times
        except OSError:
            return None
        if abs(time.time_ns() - status.st_mtime_ns) < _SETTLED_NS:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
