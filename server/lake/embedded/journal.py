"""Every record of a table once more, as compressed JSON lines beside its Deeplake files: what a damaged table is rebuilt from.

A batch is one gzip member, fsynced before Deeplake gets it. A torn or damaged member costs its own batch and no other.
Costs about a fifth of the records' size. Read by `autoresearch-mcp repair` only, or with `zcat`.
"""

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from autoresearch_mcp.trainer import files

_MAGIC = b"\x1f\x8b\x08"
_CHUNK_BYTES = 1 << 10, 1 << 16  # first and largest part of a member that is unpacked at once


def write(path: Path, texts: Sequence[str]) -> None:
    """Append a batch to the journal, made where there is none; on return it survives a power cut.

    Args:
        path: the journal.
        texts: the records as JSON.

    Raises:
        OSError: it can't be written.
    """
    member = gzip.compress("".join(f"{text}\n" for text in texts).encode(), compresslevel=6, mtime=0)
    created = not path.exists()
    with path.open("ab") as file:
        file.write(member)
        file.flush()
        os.fsync(file.fileno())
    if created:
        files.sync(path.parent)


def read(path: Path) -> Iterator[str]:
    """Yield the records' texts, oldest first, as far as they can be read; none where there is no journal.

    It takes time in proportion to the journal's size, however small its batches are.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return
    start = data.find(_MAGIC)
    while start != -1:
        try:
            text, end = _member(data, start)
        except zlib.error:
            text, end = None, start
        if text is None:  # damaged; or torn, which a damaged length of its header looks like too
            start = data.find(_MAGIC, start + 1)
            continue
        yield from text.decode().removesuffix("\n").split("\n")  # other line ends occur inside of records
        start = data.find(_MAGIC, end)


def _member(data: bytes, start: int) -> tuple[bytes | None, int]:
    """Unpack the gzip member at `start`, by chunks, so that what follows it is not copied.

    Returns:
        Its text, or None where the data ends before it, and where it ends.

    Raises:
        zlib.error: it is damaged.
    """
    unpacker, parts, position = zlib.decompressobj(wbits=31), [], start  # wbits=31: with its header and checksum
    size, largest = _CHUNK_BYTES
    while position < len(data) and not unpacker.eof:
        chunk = data[position : position + size]
        parts.append(unpacker.decompress(chunk))
        position, size = position + len(chunk), min(2 * size, largest)
    return (b"".join(parts) if unpacker.eof else None), position - len(unpacker.unused_data)
