"""The tables that one statement reads, copied into a database of its own: a file, so that the server holds a part at a time."""

import contextlib
import json
import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from autoresearch_mcp.server.lake.schema import Column
from autoresearch_mcp.server.lake.sql.statement import TYPES, refused

Load = Callable[[str, Sequence[str]], Iterable[tuple[Any, ...]]]  # a table's rows, as cells of these columns
MOST_MB = 512
_ROWS = 500  # between two looks at the clock
_PAGE_BYTES = 32_768  # holds the longest note: rows that span pages take more room
_SUFFIX = ".sqlite"
_LEFT_BEHIND_S = 600.0  # far longer than any statement takes


class Copy:
    """An SQLite file of the rows that are known now, deleted at the block's end. Lists become JSON arrays.

    Args:
        needed: the columns of each table.
        load: gives the rows.
        folder: where the file is made, readable by its owner only.

    Attributes:
        path: the file; None, where no table is needed.

    Raises:
        LabError: `bad_sql`, where the file can't be made.
    """

    def __init__(self, needed: Mapping[str, Sequence[Column]], load: Load, folder: Path) -> None:
        self.path: Path | None = None
        self._steps: Generator[None, None, None] | None = None
        if needed:
            try:
                self.path = _new_file(folder)
            except OSError as error:
                raise refused(f"the rows that it reads can't be copied ({error.strerror})") from None
            self._steps = _fill(self.path, needed, load)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._steps is not None:
            self._steps.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def go_on(self, seconds: float, processor_s: float = math.inf) -> bool:
        """Copy for so long.

        Args:
            seconds: by the clock.
            processor_s: of this thread's own work.

        Returns:
            Whether the copy is complete; if not, the next call goes on from here.

        Raises:
            LabError: `bad_sql`, where the copy gets too large or the disk is full.
        """
        end, work_end = time.monotonic() + seconds, time.thread_time() + processor_s
        try:
            for _ in self._steps or ():
                if time.monotonic() > end or time.thread_time() > work_end:
                    return False
        except sqlite3.Error as error:
            raise refused(
                f"the columns that it names can't be copied ({error}): there is room for {MOST_MB} MB; name fewer columns"
            ) from None
        return True


def _new_file(folder: Path) -> Path:
    """Make an empty file, and remove those that servers left behind when they were killed."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in folder.glob(f"sql-*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND_S:
                left.unlink()
    handle, name = tempfile.mkstemp(_SUFFIX, "sql-", folder)  # with mode 0600
    os.close(handle)
    return Path(name).resolve()


def _fill(path: Path, needed: Mapping[str, Sequence[Column]], load: Load) -> Generator[None, None, None]:
    """Copy, and pause after every few rows."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for pragma in (f"page_size = {_PAGE_BYTES}", "journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"):
            database.execute(f"PRAGMA {pragma}")
        database.execute(f"PRAGMA max_page_count = {(MOST_MB << 20) // _PAGE_BYTES}")
        database.execute("BEGIN")
        for table, columns in needed.items():
            declared = ", ".join(f'"{column.name}" {TYPES[column.type]}' for column in columns)
            database.execute(f"CREATE TABLE {table} ({declared})")
            rows = iter(load(table, [column.name for column in columns]))
            for index in (index for index, column in enumerate(columns) if column.type == "list"):
                rows = _with_json(rows, index)
            insert = f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
            while part := list(islice(rows, _ROWS)):
                database.executemany(insert, part)
                yield
        database.execute("COMMIT")


def _with_json(rows: Iterable[tuple[Any, ...]], index: int) -> Iterator[tuple[Any, ...]]:
    texts: dict[Any, str] = {}
    for row in rows:
        cell = row[index]
        if cell not in texts:
            if len(texts) >= 10_000:
                texts.clear()
            texts[cell] = json.dumps(cell, ensure_ascii=False)
        yield (*row[:index], texts[cell], *row[index + 1 :])
