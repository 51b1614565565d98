"""Holds what both ways to score share: why there is no number, hashes of folders, and processes that are heard to their end (fixed)."""

import contextlib
import hashlib
import os
import select
import signal
import time
from pathlib import Path

FOR_OWNER = "The lab's owner can read why with `autoresearch-mcp scores`."


class ScoringError(Exception):
    """There is no number.

    Attributes:
        fault: whose it is, as in `protocol.FAULTS`.
        finding: what the owner alone may read of it.
    """

    def __init__(self, message: str, fault: str = "code", finding: str = "") -> None:
        super().__init__(message)
        self.fault, self.finding = fault, finding


def hash_of(folder: Path, limit: int | None = None) -> str:
    """Return the hash of all files of a folder, names and contents.

    Args:
        folder: it must be there.
        limit: bytes that it may hold.

    Raises:
        OSError: something can't be read.
        ValueError: it holds more.
    """
    digest, size = hashlib.sha256(), 0
    if not folder.is_dir():
        raise FileNotFoundError(2, "there is no such folder", str(folder))
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        with path.open("rb") as file:
            size += path.stat().st_size
            if limit is not None and size > limit:
                raise ValueError(f"{folder} holds more than {limit >> 20} MB: give [scorer] file a folder of its own")
            digest.update(f"{path.relative_to(folder)}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()[:16]


def receive(pipe: int, seconds: float, limit: int) -> tuple[bytes, bool]:
    """Read a pipe to its end. Return its data, of more than `limit` bytes the last, and whether the end came in time."""
    deadline, data = time.monotonic() + seconds, bytearray()
    try:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(pipe, 1 << 20)
            if not part:
                return bytes(data), True
            data += part
            if len(data) > 2 * limit:
                del data[:-limit]
        return bytes(data), False
    finally:
        os.close(pipe)


def end(pid: int, by_itself: bool) -> int:
    """End a process with its helpers, and return its exit code; of one that closed its output, once it has ended."""
    deadline = time.monotonic() + 5
    status = 0
    while by_itself and time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
