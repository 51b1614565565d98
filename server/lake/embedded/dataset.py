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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.lake.base import LakeDamaged, LakeUnavailable
from autoresearch_mcp.server.lake.embedded import journal
from autoresearch_mcp.server.lake.embedded.catalog import Catalog
from autoresearch_mcp.server.lake.embedded.manifest import Head, hint, listed, read_head, seal, sweep, verify, write_head
from autoresearch_mcp.server.lake.schema import RECORD, SCHEMA_VERSION, TABLES, parse, row
from autoresearch_mcp.server.models import Memory, Record, Table
from autoresearch_mcp.server.search import vectors
from autoresearch_mcp.server.search.embedding import Embedder, EmbeddingsUnavailable
from autoresearch_mcp.trainer import files

MOST_COMMITS = 48
RETIRED_S = 60.0
_LOCK_WAIT_S = 30.0
_REWRITE_ROWS = 5_000


class Dataset:
    """A table's files and what is known of them. Callers hold `lock` around everything, and `refresh` before they read."""

    def __init__(self, folder: Path, table: Table, embedder: Embedder | None = None) -> None:
        self.lock = threading.RLock()
        self._folder = folder
        self._table = table
        self._embedder = embedder if vectors.COLUMN in TABLES[table] else None
        self._head_path = folder / f"{table}.json"
        self._held = False  # the writers' lock
        self.forget()

    def forget(self) -> None:
        """Lets go of what is open; the next `refresh` opens and checks everything again."""
        self.catalog = Catalog(self._table, self._read)
        self._index = vectors.VectorIndex(self._embedder.name, self._vector_cells) if self._embedder else None
        self._head = Head(SCHEMA_VERSION)
        self._stamp: tuple[int, ...] | None = None
        self._reader: Any = None
        self._writer: Any = None
        self._wrote: tuple[int, int] | None = None  # generation and commits that the writer left

    def refresh(self) -> None:
        """Follows the head if it changed.

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
        """The records' JSON texts."""
        if not positions:
            return []
        with self._deeplake("read"):
            return list(self._reader[RECORD][list(positions)])

    def terms(self, positions: Sequence[int]) -> list[str]:
        """The search terms of memories, as they are indexed."""
        if not positions:
            return []
        with self._deeplake("read"):
            return [text or "" for text in self._reader["terms"][list(positions)]]

    def matches(self, words: Sequence[str], limit: int) -> list[tuple[str, int, float]]:
        """Ids, versions and BM25 scores of rows whose `terms` hold any of the words, best first. Ties come in any order."""
        if self._reader is None:
            return []
        text = " ".join(words)  # word characters only: see `ranking`
        with self._deeplake("search"):
            query = f"SELECT id, version, BM25_SIMILARITY(terms, ?) AS score ORDER BY BM25_SIMILARITY(terms, ?) DESC LIMIT {limit:d}"
            (view,) = self._reader.prepare_query(query).run_batch([[text, text]])
            return list(zip(view["id"][:], map(int, view["version"][:]), map(float, view["score"][:]))) if len(view) else []

    def nearest(self, vector: Any, allowed: Sequence[int] | None, limit: int) -> list[tuple[int, float]]:
        """Positions and cosines of the rows whose vectors are nearest, best first; only of `allowed`, where it is given."""
        if self._index is None:
            return []
        self._index.extend(self._head.rows)
        return self._index.nearest(vector, allowed, limit)

    def append(self, records: Sequence[Record]) -> None:
        """Adds the records that are not there yet in this version or a newer one; on return they survive a power cut."""
        with self.writing():
            self.refresh()
            newest = {record.id: record for record in sorted(records, key=lambda record: record.version)}
            fresh = [record for record in newest.values() if (known := self.catalog.version(record.id)) is None or known < record.version]
            if not fresh:
                return
            try:
                with self._deeplake("write"):
                    self._note(fresh)
                    outdated = self._head.generation == 0 or self._head.schema < SCHEMA_VERSION or self._foreign()
                    self._rewrite(fresh) if outdated or self._head.commits >= MOST_COMMITS else self._add(fresh)
            except BaseException:
                self.forget()  # what Deeplake holds may not be what is published
                raise
            self.refresh()

    def _note(self, records: Sequence[Record]) -> None:
        """Into the journal first; a table from before there was one goes there whole."""
        path = self._folder / f"{self._table}.journal"
        if not path.exists() and self.catalog.newest:
            kept = list(self.catalog.newest.values())
            for first in range(0, len(kept), _REWRITE_ROWS):
                journal.write(path, self.texts(kept[first : first + _REWRITE_ROWS]))
        journal.write(path, [record.model_dump_json() for record in records])

    def _follow(self, head: Head | None) -> None:
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
        with self._deeplake("open"):
            if self._reader is not None:
                self._reader.refresh()
            else:
                self._tidy(directory, head)
                import deeplake

                self._reader = deeplake.open_read_only(str(directory))
            if len(self._reader) < head.rows:
                raise LakeDamaged(f"{directory} has {len(self._reader)} rows instead of {head.rows}: {hint(directory)}")

    def _tidy(self, directory: Path, head: Head) -> None:
        """A power cut may have torn files of an unpublished write: Deeplake must not see them, unless a writer is at work on them."""
        if set(listed(directory)) != set(head.files):
            try:
                with self.writing(wait_s=0):
                    if read_head(self._head_path) == head:
                        sweep(directory, head.files)
            except (LakeUnavailable, OSError):
                return  # a writer is at work, or the disk is read-only

    def _add(self, records: Sequence[Record]) -> None:
        directory = self._directory(self._head.generation)
        if self._writer is None or self._wrote != (self._head.generation, self._head.commits):
            import deeplake

            sweep(directory, self._head.files)
            self._writer = deeplake.open(str(directory))
            self._writer.indexing_mode = deeplake.IndexingMode.Always
        self._fill(self._writer, records)
        self._writer.commit()
        self._publish(replace(self._head, rows=self._head.rows + len(records), commits=self._head.commits + 1))
        self._wrote = self._head.generation, self._head.commits + 1

    def _rewrite(self, records: Sequence[Record]) -> None:
        """A fresh generation with the newest version of every row, the new ones among them."""
        if self._head.generation == 0:
            write_head(self._head_path, self._head)  # from now on a missing head is a damaged lake, not a new one
        old = self._directory(self._head.generation)
        head = Head(SCHEMA_VERSION, max([0, *self._generations()]) + 1)
        dataset = self._create(self._directory(head.generation))
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

    def _create(self, directory: Path) -> Any:
        import deeplake
        from deeplake import types

        kinds = {"text": types.Text(), "list": types.Text(), "integer": types.Int64(), "real": types.Float64(), "bytes": types.Bytes()}
        dataset = deeplake.create(str(directory))
        for column in TABLES[self._table].values():
            dataset.add_column(column.name, types.Text(types.BM25) if column.name == "terms" else kinds[column.type])
        dataset.add_column(RECORD, types.Text())
        dataset.indexing_mode = deeplake.IndexingMode.Always
        return dataset

    def _fill(self, dataset: Any, records: Sequence[Record], meanings: Sequence[bytes] = ()) -> None:
        rows = [row(self._table, record) for record in records]
        if not rows:
            return
        columns = {name: [each[name] for each in rows] for name in rows[0]}
        if self._embedder is not None:
            columns[vectors.COLUMN] = self._with_vectors(self._embedder, records, meanings or [b""] * len(records))
        dataset.append(columns)

    def _with_vectors(self, embedder: Embedder, records: Sequence[Record], stored: Sequence[bytes]) -> list[Any]:
        """The records' vectors: those that are stored, and the missing ones made."""
        unembedded = vectors.unembedded(embedder.name)
        cells = [cell if vectors.is_of(embedder.name, cell) else unembedded for cell in stored]
        missing = [n for n, cell in enumerate(cells) if cell == unembedded]
        texts = [record.text for n in missing if isinstance(record := records[n], Memory)]
        try:
            made = vectors.pack(embedder.name, embedder.embed(texts)) if texts else []
        except EmbeddingsUnavailable:
            return cells
        for n, cell in zip(missing, made):
            cells[n] = cell
        return cells

    def _foreign(self) -> bool:
        """Whether the vectors are of another model, or none: the first row tells, because a generation begins with what a rewrite embedded."""
        if self._embedder is None or not self._head.rows:
            return False
        (cell,) = self._vector_cells(0, 1)
        return not vectors.is_of(self._embedder.name, cell)

    def _stored_vectors(self, positions: Sequence[int]) -> list[bytes]:
        if self._embedder is None or self._head.schema < SCHEMA_VERSION:
            return []
        return TABLES[self._table][vectors.COLUMN].load(self._reader[vectors.COLUMN][list(positions)])

    def _vector_cells(self, first: int, last: int) -> list[bytes]:
        return TABLES[self._table][vectors.COLUMN].load(self._read(vectors.COLUMN, first, last))

    def _publish(self, head: Head) -> None:
        directory = self._directory(head.generation)
        known = self._head.files if head.generation == self._head.generation else {}
        write_head(self._head_path, replace(head, files=seal(directory, known)))

    def _read(self, column: str, first: int, last: int) -> Sequence[Any]:
        with self._deeplake("read"):
            if self._head.schema < SCHEMA_VERSION and column not in {known.name for known in self._reader.schema.columns}:
                made = TABLES[self._table][column]  # newer than the table: from the records, until the next append rewrites it
                return [made.store(made.cell(parse(self._table, text))) for text in self._reader[RECORD][first:last]]
            cells: Sequence[Any] = self._reader[column][first:last]
            return cells

    def _directory(self, generation: int) -> Path:
        return self._folder / f"{self._table}.{generation}"

    def _generations(self) -> list[int]:
        found = (path.name.removeprefix(f"{self._table}.") for path in self._folder.glob(f"{self._table}.*"))
        return sorted(int(name) for name in found if name.isdecimal())

    @contextmanager
    def writing(self, wait_s: float = _LOCK_WAIT_S) -> Iterator[None]:
        """The writers' lock of this table, across processes; whoever has it may take it again."""
        if self._held:
            yield
            return
        deadline = time.monotonic() + wait_s
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder / f"{self._table}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LakeUnavailable(f"{self._folder} can't be written ({error.strerror}). Nothing was changed.") from error
        try:
            while not files.try_lock(handle):
                if time.monotonic() >= deadline:
                    raise LakeUnavailable(
                        f"Another process has been writing to {self._folder} for {wait_s:.0f} s. Nothing was changed; try again."
                    )
                time.sleep(0.02)
            self._held = True
            yield
        finally:
            self._held = False
            os.close(handle)

    @contextmanager
    def _deeplake(self, doing: str) -> Iterator[None]:
        """Deeplake raises a dozen kinds of errors, most of them RuntimeError: all mean that the store can't be used now."""
        try:
            yield
        except LakeUnavailable:
            raise
        except ImportError as error:
            raise LakeUnavailable("The package deeplake is not installed or does not fit this platform: see the README.") from error
        except Exception as error:
            text = str(error).splitlines()[0][:200] if str(error) else ""
            raise LakeUnavailable(f"Deeplake could not {doing} {self._folder / self._table} ({type(error).__name__}: {text}).") from error


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LakeUnavailable(f"{path} can't be read ({error.strerror}).") from error
    return status.st_ino, status.st_mtime_ns, status.st_size
