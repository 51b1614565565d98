"""The head of a table: the one small file that says which generation counts, how many rows, and the checksum of every file.

Deeplake never fsyncs, loses rows silently when one of its log files is damaged, and kills the process when a data file is
empty or torn (29 of 75 emptied files did). So every file that counts is fsynced first and listed here with size and CRC-32, and
no file is given to Deeplake before it was compared with the list. Files outside the list are of a write that never ended.
"""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_mcp.server.lake.base import LakeDamaged
from autoresearch_mcp.trainer.files import sync
from autoresearch_mcp.trainer.protocol import read_json, write_json

Files = dict[str, tuple[int, int]]  # path inside the generation -> size, CRC-32


@dataclass(frozen=True)
class Head:
    """What is published of a table. Rows past `rows` are not there, whatever Deeplake says."""

    schema: int
    generation: int = 0
    rows: int = 0
    commits: int = 0
    files: Files = field(default_factory=dict)


def read_head(path: Path) -> Head | None:
    """Read the head. Returns None where nothing was ever written.

    Raises:
        LakeDamaged: it is there and can't be read.
    """
    try:
        content = read_json(path)
        if content is None and not path.exists():
            return None
        files = {name: (int(size), int(crc)) for name, (size, crc) in content.pop("files").items()}  # type: ignore[union-attr]
        return Head(files=files, **{name: int(value) for name, value in content.items()})  # type: ignore[union-attr]
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise LakeDamaged(f"{path} can't be read ({type(error).__name__}): {hint(path)}") from error


def write_head(path: Path, head: Head) -> None:
    """Publish a head: readers see the old one or this one, and so does a power cut.

    Raises:
        OSError: it can't be written; the old one counts.
    """
    write_json(path, vars(head))
    sync(path.parent)


def seal(directory: Path, known: Mapping[str, tuple[int, int]]) -> Files:
    """List all files that count. New ones are checksummed, and fsynced with the directories that name them.

    Args:
        directory: of a generation.
        known: files that were sealed before.

    Raises:
        OSError: a file can't be read or synced.
    """
    files: Files = {}
    touched: set[Path] = set()
    for name in listed(directory):
        if name in known:
            files[name] = known[name]
            continue
        path = directory / name
        content = path.read_bytes()
        files[name] = len(content), zlib.crc32(content)
        sync(path)
        touched.update(parent for parent in path.parents if parent.is_relative_to(directory.parent))
    for parent in touched:
        sync(parent)
    return files


def verify(directory: Path, files: Mapping[str, tuple[int, int]]) -> None:
    """Compare files with the list.

    Raises:
        LakeDamaged: one of them is missing, unreadable, cut or changed.
    """
    for name, (size, crc) in files.items():
        try:
            content = (directory / name).read_bytes()
        except OSError as error:
            fault = f"can't be read ({error.strerror})"
        else:
            if len(content) == size and zlib.crc32(content) == crc:
                continue
            fault = f"has {len(content)} bytes instead of {size}" if len(content) != size else "has other content than was written"
        raise LakeDamaged(f"{directory / name} {fault}: {hint(directory)}")


def sweep(directory: Path, files: Mapping[str, tuple[int, int]]) -> None:
    """Remove what an interrupted write left. The caller holds the writers' lock.

    Deeplake's own counter of log files goes too: it finds the number again, and one that is past the last file costs it 2 s.
    """
    for name in [*listed(directory), *(str(path.relative_to(directory)) for path in directory.rglob("next_base"))]:
        if name not in files:
            (directory / name).unlink(missing_ok=True)


def listed(directory: Path) -> list[str]:
    """List the files that are written once. Locks and counters change in place and may be lost."""
    return sorted(
        f"{folder}/{name}"[len(str(directory)) + 1 :]
        for folder, _, names in os.walk(directory)
        for name in names
        if name != "next_base" and not name.endswith(".lock")
    )


def hint(path: Path) -> str:
    """Return a sentence that says what to do about a damaged store."""
    return (
        f"the lake is damaged. The runner rebuilds it before it writes again, and so does `autoresearch-mcp repair`; else restore {path.parent} "
        "from a backup. What the ledger still holds is written there again."
    )
