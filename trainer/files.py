"""Locks files, and writes them so that they survive a crash, for trainer and server. Standard library only (fixed).

Two kinds of locks are in use, because they answer two questions. A file lock belongs to an open file, so it says "one at a time",
also within a process. A process lock belongs to a process and dies with it, so it says "that process lives".
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def try_lock(file: IO[Any] | int, *, shared: bool = False) -> bool:
    """Take the lock of an open file unless another open file holds it.

    Args:
        file: an open file or descriptor. Closing it releases the lock.
        shared: whether other shared locks may be held beside it.

    Returns:
        Whether the lock is held now.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: IO[Any] | int) -> None:
    """Release the lock of an open file, also for processes that inherited it. Does nothing if it isn't held."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is missing. Waits for as long as another holds it.

    Raises:
        OSError: the file can't be opened.
    """
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_process_lock(file: IO[Any] | int) -> bool:
    """Take the lock of a file for this process, unless another process holds it.

    Args:
        file: a descriptor or file open for writing. Closing any descriptor of the same file releases the lock.

    Returns:
        Whether this process holds it now.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_process_locked(path: Path) -> bool:
    """Return whether another process holds the lock of a file, which may be missing."""
    try:
        with path.open("r+b") as file:
            return not try_process_lock(file)
    except FileNotFoundError:
        return False


def size(path: Path) -> int:
    """Return how many bytes a file has; 0 where it is missing."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that a reader finds the old text or the new, and a power cut leaves one of them.

    Args:
        path: of the file.
        data: its new content.
        mode: permissions of the new file.

    Raises:
        OSError: nothing was changed.
    """
    with _beside(path, data, mode) as temporary:
        temporary.replace(path)


def create_atomically(path: Path, data: bytes, mode: int = 0o600) -> bool:
    """Write a file unless it is there. Of two callers at once, one writes it.

    Args:
        path: of the file.
        data: its content.
        mode: its permissions.

    Returns:
        Whether it was written; a file that was there stays as it is.

    Raises:
        OSError: nothing was changed.
    """
    with _beside(path, data, mode) as temporary:
        try:
            os.link(temporary, path)  # unlike a rename, it fails where another process was first
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def _beside(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Write data to a new file in the same folder, which is gone afterwards unless it was renamed."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if mode != 0o600:
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        yield Path(temporary)
    finally:
        Path(temporary).unlink(missing_ok=True)


def copy_for_all(source: Path, target: Path) -> None:
    """Copy a folder so that every user can read it, whatever its modes were.

    Raises:
        OSError: something can't be read or written.
    """
    for path in (source, *sorted(source.rglob("*"))):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir()
        else:
            shutil.copyfile(path, copy)
        copy.chmod(0o755 if path.is_dir() else 0o644)


def sync(path: Path) -> None:
    """Write a file, or the names in a directory, through to the disk.

    Raises:
        OSError: it is missing or can't be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
