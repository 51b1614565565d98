"""The lock of those who write to a table, across processes."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoresearch_mcp.server.lake.base import LakeUnavailable
from autoresearch_mcp.trainer import files

_WAIT_S = 30.0
_LOOK_S = 0.02


class WritersLock:
    """A file's lock. Its holder may take it again. Not thread-safe: a dataset has a lock for its own threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = False

    @contextmanager
    def held(self, wait_s: float = _WAIT_S) -> Iterator[None]:
        """Hold the lock while the block runs; the folder is made if it is missing.

        Args:
            wait_s: how long to wait while another process holds it.

        Raises:
            LakeUnavailable: another process held it all the time, or the folder can't be written. Nothing was changed.
        """
        if self._held:
            yield
            return
        folder = self._path.parent
        deadline = time.monotonic() + wait_s
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LakeUnavailable(f"{folder} can't be written ({error.strerror}). Nothing was changed.") from error
        try:
            while not files.try_lock(handle):
                if time.monotonic() >= deadline:
                    raise LakeUnavailable(
                        f"Another process has been writing to {folder} for {wait_s:.0f} s. Nothing was changed; try again."
                    )
                time.sleep(_LOOK_S)
            self._held = True
            yield
        finally:
            self._held = False
            os.close(handle)
