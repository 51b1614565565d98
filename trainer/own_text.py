"""Reads an owner's own text: a folder of plain text, JSON lines or Parquet, or a data set of the Hugging Face hub (fixed).

Plain text is cut into documents of whole paragraphs. A row of JSON lines or Parquet is a document. The public split goes by each
document's hash, so the order of files says nothing, and a document that is there twice counts once. A lab draws its own split
from all of it with its secret: see heldout.py.
"""

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from autoresearch_mcp.trainer.protocol import OwnText

DOCUMENT_CHARS = 1500
LONGEST_CHARS = 4 * DOCUMENT_CHARS  # of a paragraph, before it is cut
PLAIN, ROWS, PARQUET = (".txt", ".md"), (".jsonl", ".ndjson"), (".parquet",)
SMALLEST = 5  # times `eval_bytes`: validation, half as much hidden, the reserve, and as much again to train on


class TextError(Exception):
    """An owner's text can't be used; the message says why."""


def listing(own: OwnText) -> list[tuple[str, int, int]]:
    """Return the files of a folder that are read: path, bytes, and when each was last written.

    Raises:
        TextError: there is no such folder, or it holds no text.
    """
    root = Path(own.text)
    if not root.is_dir():
        raise TextError(f"there is no folder {root}.")
    files = []
    for path in sorted(path for path in root.rglob("*") if path.is_file() and is_text(path.relative_to(root).as_posix(), own)):
        facts = path.stat()
        files.append((path.relative_to(root).as_posix(), facts.st_size, facts.st_mtime_ns))
    if not files:
        raise TextError(f"{root} holds no file {own.files} that ends in {', '.join(PLAIN + ROWS + PARQUET)}.")
    return files


def is_text(name: str, own: OwnText) -> bool:
    """Return whether a file is one to read, by its path."""
    return fnmatchcase(name, own.files) and name.lower().endswith(PLAIN + ROWS + PARQUET)


def recipe(own: OwnText) -> dict[str, object]:
    """Return what names the data that is made of a text: another text has another name.

    Raises:
        TextError: the folder can't be read.
    """
    facts = {name: value for name, value in asdict(own).items() if name not in ("device", "seq_len", "budget_s")}
    return facts | {"listing": listing(own) if own.text else []}


def documents(paths: Iterable[Path], own: OwnText) -> Iterator[str]:
    """Yield the documents of files, in order, up to `max_mb` of them.

    Raises:
        TextError: a file has no such column, or isn't what its name says.
    """
    left = own.max_mb << 20
    for path in paths:
        for document in _of_file(path, own.column):
            if document.strip():
                yield document
                left -= len(document.encode("utf-8", "replace"))
            if left <= 0:
                return


def _of_file(path: Path, column: str) -> Iterator[str]:
    if path.suffix.lower() in PLAIN:
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from grouped(piece for paragraph in text.split("\n\n") for piece in _cut(paragraph.strip()))
        return
    try:
        yield from (_texts_of_parquet if path.suffix.lower() in PARQUET else _texts_of_rows)(path, column)
    except KeyError:
        raise TextError(f"{path.name} has no column {column!r}: name it in [profile.NAME] column.") from None
    except ValueError as error:
        raise TextError(f"{path.name} can't be read: {error}.") from None


def _texts_of_rows(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict) or not isinstance(row[column], str):
                    raise ValueError(f"line {number} holds no text under {column!r}")
                yield row[column]


def _texts_of_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise KeyError(column)
        if not pa.types.is_string(kind := file.schema_arrow.field(column).type) and not pa.types.is_large_string(kind):
            raise ValueError(f"its column {column!r} holds no text")
        for group in range(file.num_row_groups):
            yield from (text for text in file.read_row_group(group, columns=[column]).column(column).to_pylist() if text)


def grouped(paragraphs: Iterable[str], without: Container[str] = ()) -> Iterator[str]:
    """Join paragraphs until they reach a document's size, leaving some out."""
    group: list[str] = []
    for paragraph in paragraphs:
        if paragraph and paragraph not in without:
            group.append(paragraph)
        if sum(map(len, group)) >= DOCUMENT_CHARS:
            yield "\n\n".join(group)
            group = []
    if group:
        yield "\n\n".join(group)


def _cut(paragraph: str) -> Iterator[str]:
    """Cut a paragraph that is too long, at an end of a line where there is one."""
    while len(paragraph) > LONGEST_CHARS:
        end = paragraph.rfind("\n", 1, LONGEST_CHARS)
        end = end if end > 0 else LONGEST_CHARS
        yield paragraph[:end]
        paragraph = paragraph[end:].lstrip("\n")
    yield paragraph


def split(read: Callable[[], Iterator[str]], eval_bytes: int) -> dict[str, Callable[[], Iterator[str]]]:
    """Divide documents by their hashes: the lowest are validation, the next ones the hidden split, the rest is for training.

    Args:
        read: yields all of them, in the same order each time.
        eval_bytes: of validation; half as many of the hidden split.

    Raises:
        TextError: there is too little text.
    """
    known = sorted({_key(document): len(document.encode("utf-8", "replace")) for document in read()}.items())
    total = sum(size for _, size in known)
    if total < SMALLEST * eval_bytes:
        raise TextError(f"it has {total:,} bytes of text, and eval_bytes = {eval_bytes:,} needs {SMALLEST * eval_bytes:,} or more.")
    ends, wanted, taken = [b""], eval_bytes, 0
    for key, size in known:
        taken += size
        if taken >= wanted:
            ends.append(key)
            if len(ends) == 3:
                break
            wanted, taken = eval_bytes // 2, 0

    def part(low: bytes, high: bytes | None) -> Iterator[str]:
        yielded = set[bytes]()
        for document in read():
            key = _key(document)
            if low < key and (high is None or key <= high) and key not in yielded:
                yielded.add(key)
                yield document

    _, val, test = ends
    return {"train": partial(part, test, None), "val": partial(part, b"", val), "test": partial(part, val, test)}


def _key(document: str) -> bytes:
    return hashlib.sha256(document.encode("utf-8", "replace")).digest()[:8]
