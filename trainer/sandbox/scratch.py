"""The one directory that the agent's code can write: made, watched and removed (fixed).

Its name is drawn: whether a path exists is for all to see, Landlock or not, so a run that is told no name can't be told by it what
another one found. Those who work in it under users of their own pass through, and list nothing.
Counted are blocks, so a file with holes counts for what it takes, and files that were removed but are still open count
too. What a removed file takes that only a memory mapping holds can't be seen, so such are looked for where the disk has lost more.
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
    """Args:
    around: what is made, and removed, with it.
    limit_mb: what it may hold.
    """

    def __init__(self, around: Path, limit_mb: int) -> None:
        self._around = around
        self.path = around / secrets.token_hex(16)
        self.limit_mb = limit_mb
        self._room = 0  # on the disk, in bytes, when it was made

    def make(self) -> None:
        """An empty directory, whatever was there."""
        remove(self._around)
        for directory in (self._around, self.path):
            directory.mkdir()
            directory.chmod(0o711)
        self._room = _room(self.path)

    def complaint(self, processes: Iterable[int]) -> str | None:
        """What is wrong with what it holds, if anything; `processes` are those that may hold removed files open."""
        processes = tuple(processes)
        size, count, seen = 0, 0, set[tuple[int, int]]()
        try:
            device = self.path.stat().st_dev
            for info in (*self._files(), *_removed_but_open(processes, device)):
                if (info.st_dev, info.st_ino) not in seen:
                    seen.add((info.st_dev, info.st_ino))
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
        """All that lies in the directory. Entries may come and go meanwhile."""
        pending, found = [(self.path, 0)], 0
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
            found += len(entries)
            if found > ENTRIES:
                raise _TooMuch(f"has more than {ENTRIES:,} files")
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield info
                if stat.S_ISDIR(info.st_mode):
                    pending.append((Path(entry.path), depth + 1))

    def remove(self) -> None:
        remove(self._around)


def remove(directory: Path) -> None:
    """Also what is too deep for Python, or closed to us by its mode."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        subprocess.run(["sh", "-c", 'chmod -R u+rwx "$0"; rm -rf "$0"', directory], stderr=subprocess.DEVNULL, check=False)


def _room(path: Path) -> int:
    """Free bytes of the disk; 0 where the directory is gone."""
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
