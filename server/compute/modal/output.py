"""Writes what a training sandbox prints into the job's local folder: the log and the loss curve."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import protocol

FILE_BYTES = 6 << 20  # of the log and of the curve; the launcher caps what it sends, this caps what is kept of it


async def record_output(lines: AsyncIterator[str], directory: Path, hear: Callable[[dict[str, Any]], None]) -> None:
    """Write the log and the curve anew from a sandbox's stdout, until that ends.

    Args:
        lines: The sandbox's stdout from its beginning, one JSON object a line. Other lines are dropped.
        directory: The job's local folder.
        hear: Takes each message.

    Raises:
        ModalAway: The service stopped sending; the sandbox may run on.
        OSError: The files could not be written.
    """
    with (
        (directory / protocol.LOG).open("wb", buffering=0) as log,
        (directory / protocol.CURVE).open("wb", buffering=0) as curve,
    ):
        files = {protocol.LOG: log, protocol.CURVE: curve}
        left = dict.fromkeys(files, FILE_BYTES)
        async for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # of the image or the interpreter, not of the entry point
            if not isinstance(message, dict):
                continue
            hear(message)
            for key, file in files.items():
                if key in message and left[key] > 0:
                    left[key] -= file.write(str(message[key]).encode()[: left[key]]) or 0


def write_progress(directory: Path, progress: dict[str, Any]) -> None:
    """Replace the progress file, without fsync: the next message brings a newer one."""
    path = directory / protocol.PROGRESS
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(progress), encoding="utf-8")
    temporary.replace(path)
