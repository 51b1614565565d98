"""Makes, watches and removes the one directory that the agent's code can write (fixed).

- Its name is random. Every process can see whether a path exists, Landlock or not. So two runs that knew each other's names could talk
  by creating files. Processes under users of their own can pass through the directory above, and list nothing.
- It counts blocks, so a file with holes counts for what it takes. Files that were removed but are still open count too.
- Removed files that only a memory mapping holds can't be counted. It looks for them where the disk has lost more than was counted.
"""

import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

ENTRIES, DEPTH = 10_000, 32  # files and directories in all; directories in each other
_BLOCK = 512  # bytes of st_blocks, whatever the file system's own are


class Scratch:
    """The scratch directory of one run.

    Attributes:
        path: of the directory, which `make` makes.

    Args:
        around: the directory around it, made and removed with it.
        limit_mb: how much it may hold.
        entries: how many files and folders it may hold; 0 for as many as usual.
    """

    def __init__(self, around: Path, limit_mb: int, entries: int = 0) -> None:
        self._around = around
        self.path = around / secrets.token_hex(16)
        self.limit_mb = limit_mb
        self._entries = entries or ENTRIES
        self._room = 0  # on the disk, in bytes, when it was made

    def make(self) -> None:
        """Make it, empty, whatever was there."""
        remove(self._around)
        for directory in (self._around, self.path):
            directory.mkdir()
            directory.chmod(0o711)
        self._room = _room(self.path)

    def complaint(self, processes: Iterable[int]) -> str | None:
        """Say what is wrong with what it holds.

        Args:
            processes: those that may hold removed files open.

        Returns:
            A sentence, or None if nothing is wrong.
        """
        processes = tuple(processes)
        size, count, counted = 0, 0, set[tuple[int, int]]()
        try:
            device = self.path.stat().st_dev
            for info in (*self._files(), *_removed_but_open(processes, device)):
                if (info.st_dev, info.st_ino) not in counted:
                    counted.add((info.st_dev, info.st_ino))
                    size, count = size + info.st_blocks * _BLOCK, count + 1
        except FileNotFoundError:
            return None
        except _TooMuch as error:
            return f"the run's directory {error}."
        if size > self.limit_mb << 20:
            return f"the run holds {size >> 20} MB on disk, {self.limit_mb} MB are allowed."
        if self._room - _room(self.path) - size > self.limit_mb << 20 and _removed_but_mapped(processes, self.path):
            return f"the run maps removed files, and the disk has lost more than the {self.limit_mb} MB on disk that are allowed."
        return None

    def _files(self) -> Iterator[os.stat_result]:
        """Yield all that lies in the directory. Entries may come and go meanwhile."""
        pending, total = [(self.path, 0)], 0
        while pending:
            directory, depth = pending.pop()
            if depth > DEPTH:
                raise _TooMuch(f"has directories more than {DEPTH} deep")
            try:
                entries = list(os.scandir(directory))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise _TooMuch(f"has a part that can't be looked into ({error.strerror})") from None
            total += len(entries)
            if total > self._entries:
                raise _TooMuch(f"has more than {self._entries:,} files")
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield info
                if stat.S_ISDIR(info.st_mode):
                    pending.append((Path(entry.path), depth + 1))

    def remove(self) -> None:
        """Remove it, and the directory around it."""
        remove(self._around)


def remove(directory: Path) -> None:
    """Remove a directory, however deep it is, and whatever its modes are."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        subprocess.run(["sh", "-c", 'chmod -R u+rwx "$0"; rm -rf "$0"', directory], stderr=subprocess.DEVNULL, check=False)


def _room(path: Path) -> int:
    """Return the free bytes of the disk: 0 where the directory is gone."""
    try:
        disk = os.statvfs(path)
    except FileNotFoundError:
        return 0
    return disk.f_bfree * disk.f_frsize


class _TooMuch(Exception):
    pass


def _removed_but_open(processes: Iterable[int], device: int) -> Iterator[os.stat_result]:
    for pid in processes:
        try:
            entries = list(os.scandir(f"/proc/{pid}/fd"))
        except OSError:  # it ended, or there is no /proc
            continue
        for entry in entries:
            try:
                info = entry.stat()
            except OSError:
                continue
            if stat.S_ISREG(info.st_mode) and info.st_nlink == 0 and info.st_dev == device:
                yield info


def _removed_but_mapped(processes: Iterable[int], directory: Path) -> bool:
    for pid in processes:
        try:
            lines = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
        except OSError:
            continue
        if any(os.fsencode(directory) in line and line.endswith(b" (deleted)") for line in lines):
            return True
    return False
