"""Reads a script's metrics from files that it leaves: JSON, JSON lines, and TensorBoard's event files (fixed). Standard library only.

The training code wrote these files, so they are opened without following links, read up to a limit, and never run.
"""

import contextlib
import json
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer.metrics import Reading, keep

TENSORBOARD = "tensorboard"
_JSON_BYTES, _EVENT_BYTES, _EVENT_FILES, _TAGS = 16 << 20, 256 << 20, 200, 10_000
_RECORD = 1 << 20  # bytes of a record of numbers, at most
_DTYPES = {1: "<f", 2: "<d"}  # of a TensorProto: DT_FLOAT, DT_DOUBLE


def read(folder: Path, source: str, name: str) -> tuple[Reading | None, dict[str, float]]:
    """Read the metric that a script left.

    Args:
        folder: of the run.
        source: `tensorboard`, or the path of a `.json` or `.jsonl` file in it.
        name: the key; for TensorBoard the tag.

    Returns:
        What the file says of the metric, or None where it doesn't name it, and all finite numbers in it.
    """
    scalars: dict[str, float] = {}
    last: Reading | None = None
    for key, value in _tags(folder) if source == TENSORBOARD else _pairs(folder, source):
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 else None
        if number is not None:
            keep(scalars, {key: number})
        if key == name:
            fault = "" if number is not None else f"{str(value)[:40]} is not a finite number"
            last = Reading(number, fault, f"{key}: {str(value)[:40]}")
    return last, scalars


def _pairs(folder: Path, source: str) -> Iterator[tuple[str, Any]]:
    data = read_plainly(folder, Path(source), _JSON_BYTES)
    if data is None:
        return
    texts = data.decode("utf-8", "replace").splitlines() if source.endswith(".jsonl") else [data.decode("utf-8", "replace")]
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError):
            yield from _flat("", json.loads(text), 0)


def _flat(prefix: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested objects under dotted names."""
    if isinstance(value, dict):
        for key, each in value.items() if depth < 6 else ():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), each, depth + 1)
    elif prefix and not isinstance(value, list):
        yield prefix, value


def read_plainly(folder: Path, path: Path, most: int) -> bytes | None:
    """Read a plain file below a folder, without following a link anywhere on the way.

    Returns:
        Its bytes; None where there is no plain file, or it is larger than `most`.
    """
    where = -1
    try:
        where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for part in path.parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=where)
            os.close(where)
            where = inner
        handle = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=where)
    except OSError:
        return None
    finally:
        if where >= 0:
            os.close(where)
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > most:
            return None
        data = file.read(most + 1)
    return data if len(data) <= most else None


def _tags(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield each tag of all event files with its latest value."""
    paths = [Path(at, name).relative_to(folder) for at, _, names in os.walk(folder) for name in names if "tfevents" in name]
    latest: dict[str, tuple[float, float]] = {}  # wall time and value
    left = _EVENT_BYTES
    for path in sorted(paths)[-_EVENT_FILES:]:
        data = read_plainly(folder, path, left) or b""
        left -= len(data)
        with contextlib.suppress(ValueError, struct.error, IndexError):
            for time, tag, value in _events(data):
                if time >= latest.get(tag, (time, 0.0))[0] and (tag in latest or len(latest) < _TAGS):
                    latest[tag] = time, value
    for tag, (_, value) in latest.items():
        yield tag, value


def _events(data: bytes) -> Iterator[tuple[float, str, float]]:
    """Yield (wall time, tag, value) of the records of an event file; what was cut off at its end is left out."""
    at = 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        at += 16 + length
        if len(body) < length:
            break
        if length > _RECORD:  # a picture or a sound
            continue
        fields = list(_fields(body))
        time = next((struct.unpack("<d", value)[0] for number, value in fields if number == 1 and len(value) == 8), 0.0)
        for number, summary in fields:
            if number == 5:
                yield from ((time, tag, value) for each, raw in _fields(summary) if each == 1 for tag, value in _scalar(raw))


def _scalar(raw: bytes) -> Iterator[tuple[str, float]]:
    fields = dict(_fields(raw))
    tag = fields.get(1, b"").decode("utf-8", "replace")
    if len(fields.get(2, b"")) == 4:
        yield tag, struct.unpack("<f", fields[2])[0]
    elif 8 in fields:
        tensor = dict(_fields(fields[8]))
        form = _DTYPES.get(tensor.get(1, b"\0")[0])
        content = tensor.get(4, b"") or tensor.get(5, b"") or tensor.get(6, b"")
        if form and len(content) == struct.calcsize(form):
            yield tag, struct.unpack(form, content)[0]


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield field numbers and raw contents of a protocol buffer's message; a varint as its one byte or more."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value.to_bytes(8, "little")
            case 1:
                yield key >> 3, data[at : at + 8]
                at += 8
            case 2:
                length, at = _varint(data, at)
                yield key >> 3, data[at : at + length]
                at += length
            case 5:
                yield key >> 3, data[at : at + 4]
                at += 4
            case _:
                raise ValueError("an unknown wire type")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value & (1 << 64) - 1, at
        if shift > 63:
            raise ValueError("a number is too long")
