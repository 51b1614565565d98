"""One table as a Deeplake dataset in a folder: it survives kills, power cuts and damage, and stays fast as it grows.

- A write is published by its head (see `manifest`): files fsynced first, then the head replaced. A reader follows the head
  with one `stat` a call and sees whole writes only.
- Deeplake gets slower with every commit. After `MOST_COMMITS` the table is rewritten into a fresh generation, and the old
  one is removed a minute later, when no reader is in it any more. A table of an older schema is brought up to date the same way.
- Only appends: updating a row that a Deeplake index covers makes the index wrong for good.
- Memories are stored with their vectors. A write rewrites a table whose vectors are of another model than the lake's; what an
  endpoint did not embed, the next rewrite gives to it again.
"""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.lake.base import LakeDamaged, LakeUnavailable
from autoresearch_mcp.server.lake.embedded import journal
from autoresearch_mcp.server.lake.embedded.catalog import Catalog
from autoresearch_mcp.server.lake.embedded.engine import create, explained, open_to_read, open_to_write
from autoresearch_mcp.server.lake.embedded.lock import WritersLock
from autoresearch_mcp.server.lake.embedded.manifest import Head, hint, listed, read_head, seal, sweep, verify, write_head
from autoresearch_mcp.server.lake.schema import RECORD, SCHEMA_VERSION, TABLES, VECTORS_SINCE, parse, row
from autoresearch_mcp.server.models import Memory, Record, Table
from autoresearch_mcp.server.search import vectors
from autoresearch_mcp.server.search.embedding import Embedder
from autoresearch_mcp.server.search.text import TermIndex

MOST_COMMITS = 48
RETIRED_S = 60.0
_REWRITE_ROWS = 5_000


class Dataset:
    """A table's files and what is known of them.

    Callers hold `lock` around every call, and call `refresh` before they read. Whoever changes the files by other means than
    `append` holds `writers_lock`.
    """

    def __init__(self, folder: Path, table: Table, embedder: Embedder | None = None) -> None:
        self.lock = threading.RLock()
        self._folder = folder
        self._table = table
        self._embedder = embedder if vectors.COLUMN in TABLES[table] else None
        self._head_path = folder / f"{table}.json"
        self.writers_lock = WritersLock(folder / f"{table}.lock")
        self.forget()

    def forget(self) -> None:
        """Let go of what is open; the next `refresh` opens and checks everything again."""
        self.catalog = Catalog(self._table, self._read)
        self._index = vectors.VectorIndex(self._embedder.name, self._vector_cells) if self._embedder else None
        self._words = TermIndex(lambda first, last: [text or "" for text in self._read("terms", first, last)])
        self._head = Head(SCHEMA_VERSION)
        self._stamp: tuple[int, ...] | None = None
        self._reader: Any = None
        self._writer: Any = None
        self._wrote: tuple[int, int] | None = None  # generation and commits that the writer left

    def refresh(self) -> None:
        """Read the head again if it changed, and what it names.

        Raises:
            LakeUnavailable: the table is damaged, can't be read, or was made by a newer version.
        """
        while (stamp := _stamp(self._head_path)) != self._stamp or stamp is None:
            try:
                self._follow(read_head(self._head_path))
                self._stamp = stamp
                return
            except LakeUnavailable:
                self.forget()
                if _stamp(self._head_path) == stamp:  # else it was rewritten under our eyes
                    raise

    def texts(self, positions: Sequence[int]) -> list[str]:
        """Return the JSON texts of the records at these positions.

        Raises:
            LakeUnavailable: Deeplake can't read them.
        """
        if not positions:
            return []
        with explained("read", self._where()):
            return list(self._reader[RECORD][list(positions)])

    def terms(self, positions: Sequence[int]) -> list[str]:
        """Return the search terms of memories, as they are indexed.

        Raises:
            LakeUnavailable: Deeplake can't read them.
        """
        if not positions:
            return []
        with explained("read", self._where()):
            return [text or "" for text in self._reader["terms"][list(positions)]]

    def matches(self, words: Sequence[str], limit: int) -> list[tuple[str, int, float]]:
        """Return ids, versions and BM25 scores of rows whose `terms` hold any of the words, best first. Ties come in any order.

        Raises:
            LakeUnavailable: Deeplake can't search.
        """
        if self._reader is None:
            return []
        text = " ".join(words)  # word characters only: see `ranking`
        with explained("search", self._where()):
            query = f"SELECT id, version, BM25_SIMILARITY(terms, ?) AS score ORDER BY BM25_SIMILARITY(terms, ?) DESC LIMIT {limit:d}"
            (view,) = self._reader.prepare_query(query).run_batch([[text, text]])
            return list(zip(view["id"][:], map(int, view["version"][:]), map(float, view["score"][:]))) if len(view) else []

    def ranked(self, words: Sequence[str]) -> dict[int, float]:
        """Return the positions and BM25 scores of the memories whose terms hold any of the words, from an index in memory.

        Raises:
            LakeUnavailable: Deeplake can't read the terms of what is new.
        """
        self._words.extend(self._head.rows)
        return self._words.rank(words)

    def nearest(self, vector: Any, allowed: Sequence[int] | None, limit: int) -> list[tuple[int, float]]:
        """Return positions and cosines of the rows whose vectors are nearest, best first.

        Args:
            vector: of the lake's model.
            allowed: the only positions that count, or None for all.
            limit: the most rows to return.

        Raises:
            LakeUnavailable: Deeplake can't read the vectors.
        """
        if self._index is None:
            return []
        self._index.extend(self._head.rows)
        return self._index.nearest(vector, allowed, limit)

    def append(self, records: Sequence[Record]) -> None:
        """Store the records that are not there yet in this version or a newer one; on return they survive a power cut.

        Raises:
            LakeUnavailable: they may be stored or not. Repeating the call is safe.
        """
        with self.writers_lock.held():
            self.refresh()
            newest = {record.id: record for record in sorted(records, key=lambda record: record.version)}
            fresh = [record for record in newest.values() if (known := self.catalog.version(record.id)) is None or known < record.version]
            if not fresh:
                return
            try:
                with explained("write", self._where()):
                    self._note(fresh)
                    outdated = self._head.generation == 0 or self._head.schema < SCHEMA_VERSION or self._foreign()
                    self._rewrite(fresh) if outdated or self._head.commits >= MOST_COMMITS else self._add(fresh)
            except BaseException:
                self.forget()  # what Deeplake holds may not be what is published
                raise
            self.refresh()

    def _note(self, records: Sequence[Record]) -> None:
        """Write the records to the journal; the records of a table from before there was one go there first."""
        path = self._folder / f"{self._table}.journal"
        if not path.exists() and self.catalog.newest:
            kept = list(self.catalog.newest.values())
            for first in range(0, len(kept), _REWRITE_ROWS):
                journal.write(path, self.texts(kept[first : first + _REWRITE_ROWS]))
        journal.write(path, [record.model_dump_json() for record in records])

    def _follow(self, head: Head | None) -> None:
        """Check and open what a head names, and read the rows that are new."""
        if head is None:
            if self._generations():
                raise LakeDamaged(f"{self._head_path} is missing: {hint(self._head_path)}")
            self.forget()
            return
        if head.schema > SCHEMA_VERSION:
            raise LakeUnavailable(
                f"{self._folder} was written by a newer version (schema {head.schema}, this one knows {SCHEMA_VERSION}). Upgrade autoresearch-mcp."
            )
        if head.generation != self._head.generation:
            self.forget()
        if head.generation:
            self._open(head)
        self._head = head
        self.catalog.extend(head.rows)

    def _open(self, head: Head) -> None:
        directory = self._directory(head.generation)
        verify(directory, {name: mark for name, mark in head.files.items() if self._head.files.get(name) != mark})
        with explained("open", self._where()):
            if self._reader is not None:
                self._reader.refresh()
            else:
                self._tidy(directory, head)
                self._reader = open_to_read(directory)
            if len(self._reader) < head.rows:
                raise LakeDamaged(f"{directory} has {len(self._reader)} rows instead of {head.rows}: {hint(directory)}")

    def _tidy(self, directory: Path, head: Head) -> None:
        """Remove files of a write that was never published, unless a writer is at work: a power cut may have torn them."""
        if set(listed(directory)) != set(head.files):
            try:
                with self.writers_lock.held(wait_s=0):
                    if read_head(self._head_path) == head:
                        sweep(directory, head.files)
            except (LakeUnavailable, OSError):
                return  # a writer is at work, or the disk is read-only

    def _add(self, records: Sequence[Record]) -> None:
        directory = self._directory(self._head.generation)
        if self._writer is None or self._wrote != (self._head.generation, self._head.commits):
            sweep(directory, self._head.files)
            self._writer = open_to_write(directory)
        self._fill(self._writer, records)
        self._writer.commit()
        self._publish(replace(self._head, rows=self._head.rows + len(records), commits=self._head.commits + 1))
        self._wrote = self._head.generation, self._head.commits + 1

    def _rewrite(self, records: Sequence[Record]) -> None:
        """Write a fresh generation with the newest version of every row, the new ones among them."""
        if self._head.generation == 0:
            write_head(self._head_path, self._head)  # from now on a missing head is a damaged lake, not a new one
        old = self._directory(self._head.generation)
        head = Head(SCHEMA_VERSION, max([0, *self._generations()]) + 1)
        dataset = create(self._directory(head.generation), self._table)
        replaced = {record.id for record in records}
        kept = [position for id, position in self.catalog.newest.items() if id not in replaced]
        for first in range(0, len(kept), _REWRITE_ROWS):
            chunk = kept[first : first + _REWRITE_ROWS]
            self._fill(dataset, [parse(self._table, text) for text in self.texts(chunk)], self._stored_vectors(chunk))
        self._fill(dataset, records)
        dataset.commit()
        self._publish(replace(head, rows=len(kept) + len(records), commits=1))
        if old.exists():
            os.utime(old)
        for generation in self._generations():
            path = self._directory(generation)
            if generation != head.generation and time.time() - path.stat().st_mtime > RETIRED_S:
                shutil.rmtree(path, ignore_errors=True)

    def _fill(self, dataset: Any, records: Sequence[Record], stored: Sequence[bytes] = ()) -> None:
        """Add rows to a dataset, with the vectors that are stored or, where they are missing, with fresh ones."""
        rows = [row(self._table, record) for record in records]
        if not rows:
            return
        columns: dict[str, list[Any]] = {name: [each[name] for each in rows] for name in rows[0]}
        if self._embedder is not None:
            texts = [record.text for record in records if isinstance(record, Memory)]
            columns[vectors.COLUMN] = vectors.completed(self._embedder, texts, stored or [b""] * len(texts))
        dataset.append(columns)

    def _foreign(self) -> bool:
        """Return whether the vectors are of another model, or none. The first row shows it: a rewrite embeds every row before the next write."""
        if self._embedder is None or not self._head.rows:
            return False
        (cell,) = self._vector_cells(0, 1)
        return not vectors.is_of(self._embedder.name, cell)

    def _stored_vectors(self, positions: Sequence[int]) -> list[bytes]:
        if self._embedder is None or self._head.schema < VECTORS_SINCE:
            return []
        return TABLES[self._table][vectors.COLUMN].load(self._reader[vectors.COLUMN][list(positions)])

    def _vector_cells(self, first: int, last: int) -> list[bytes]:
        return TABLES[self._table][vectors.COLUMN].load(self._read(vectors.COLUMN, first, last))

    def _publish(self, head: Head) -> None:
        directory = self._directory(head.generation)
        known = self._head.files if head.generation == self._head.generation else {}
        write_head(self._head_path, replace(head, files=seal(directory, known)))

    def _read(self, column: str, first: int, last: int) -> Sequence[Any]:
        with explained("read", self._where()):
            if self._head.schema < SCHEMA_VERSION and column not in {known.name for known in self._reader.schema.columns}:
                newer = TABLES[self._table][column]  # than the table: read from the records, until the next append rewrites it
                return [newer.store(newer.cell(parse(self._table, text))) for text in self._reader[RECORD][first:last]]
            cells: Sequence[Any] = self._reader[column][first:last]
            return cells

    def _directory(self, generation: int) -> Path:
        return self._folder / f"{self._table}.{generation}"

    def _generations(self) -> list[int]:
        suffixes = (path.name.removeprefix(f"{self._table}.") for path in self._folder.glob(f"{self._table}.*"))
        return sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())

    def _where(self) -> Path:
        return self._folder / self._table


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LakeUnavailable(f"{path} can't be read ({error.strerror}).") from error
    return status.st_ino, status.st_mtime_ns, status.st_size
