"""The tables that one statement reads, copied into a database of its own."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from autoresearch_mcp.server.lake.schema import Column
from autoresearch_mcp.server.lake.sql.statement import TYPES
from autoresearch_mcp.server.models import Table

Load = Callable[[Table, Sequence[str]], Iterable[tuple[Any, ...]]]  # a table's rows, as cells of these columns


def copied(needed: Mapping[Table, Sequence[Column]], load: Load) -> bytes:
    """Return an SQLite database of the rows that are known now, as the bytes of its file. Lists become JSON arrays.

    Args:
        needed: the columns of each table.
        load: gives the rows.
    """
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        database.execute("BEGIN")
        for table, columns in needed.items():
            declared = ", ".join(f'"{column.name}" {TYPES[column.type]}' for column in columns)
            database.execute(f"CREATE TABLE {table} ({declared})")
            rows = load(table, [column.name for column in columns])
            for index in (index for index, column in enumerate(columns) if column.type == "list"):
                rows = _with_json(rows, index)
            database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)  # noqa: S608
        database.execute("COMMIT")
        return database.serialize() if needed else b""
    finally:
        database.close()


def _with_json(rows: Iterable[tuple[Any, ...]], index: int) -> Iterator[tuple[Any, ...]]:
    texts: dict[Any, str] = {}
    for row in rows:
        cell = row[index]
        if cell not in texts:
            texts[cell] = json.dumps(cell, ensure_ascii=False)
        yield (*row[:index], texts[cell], *row[index + 1 :])
