"""The runner's log, which launchers write to as well: kept short."""

import contextlib
import os
import shutil
from pathlib import Path

LOG_BYTES = 5_000_000  # of the log, and of the old one beside it


def rotate(log: Path) -> None:
    """Move a log that is too long to a file beside it. Processes that have it open go on writing to it, from its beginning."""
    with contextlib.suppress(OSError):  # a full disk: it stays as it is
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)
