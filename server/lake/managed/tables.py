"""The statements that a lab's tables at Deeplake's service are asked, and the refusals that a store can act on.

The tables hold the columns of `schema` with -1 for no value, `stored_at` (the writer's clock), and the record as JSON.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from autoresearch_mcp.server.lake.managed.service import Row, Service, ServiceError
from autoresearch_mcp.server.lake.schema import RECORD, TABLES, parse, row
from autoresearch_mcp.server.models import Record, Table

_LIST_ROWS = 5_000
_TYPES = {"text": "TEXT", "list": "TEXT", "integer": "BIGINT", "real": "DOUBLE PRECISION"}


class NoTable(ServiceError):
    """The table is not there, or not there yet."""


class SharedTables:
    """The tables `{prefix}experiments`, ... of a workspace. Thread-safe.

    Every method raises `NoTable` for a table that is not there, and `ServiceError` for any other failure, within about `within_s`.
    """

    def __init__(self, service: Service, prefix: str) -> None:
        self._service = service
        self._prefix = prefix

    def name(self, table: Table) -> str:
        """Return the table's name at the service."""
        return f"{self._prefix}{table}"

    def create(self, table: Table, within_s: float) -> None:
        """Make the table, where it is missing.

        Raises:
            ServiceError: it can't be made or looked up.
        """
        try:
            self.count(table, within_s)
            return
        except NoTable:
            columns = {name: _TYPES[column.type] for name, column in TABLES[table].items() if not column.hidden}
            columns |= {"stored_at": "DOUBLE PRECISION", RECORD: "TEXT"}
            text = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        try:
            self._query(table, f"CREATE TABLE IF NOT EXISTS {self._quoted(table)} ({text}) USING deeplake", [], within_s)
        except ServiceError as error:
            if "already exists" not in str(error) and "duplicate key" not in str(error):  # another machine was faster
                raise

    def check_columns(self, table: Table, within_s: float) -> None:
        """Read a row, to find out whether the table has the columns of this version.

        Raises:
            NoTable: there is no such table.
            ServiceError: it has other columns, or can't be read.
        """
        names = _columns([name for name, column in TABLES[table].items() if not column.hidden])
        self._query(table, f"SELECT {names}, stored_at, {RECORD} FROM {self._quoted(table)} LIMIT 1", [], within_s)  # noqa: S608

    def insert(self, table: Table, records: Sequence[Record], within_s: float) -> None:
        """Add rows, in one statement that is not repeated once it may have had its effect.

        Raises:
            NoTable: there is no such table.
            ServiceError: it failed; `maybe_done` tells whether the rows may be stored all the same.
        """
        now = time.time()
        rows = [_shared(table, record) | {"stored_at": now} for record in records]
        names = list(rows[0])
        groups = (", ".join(f"${len(names) * n + i + 1}" for i in range(len(names))) for n in range(len(rows)))
        places = ", ".join(f"({group})" for group in groups)
        statement = f"INSERT INTO {self._quoted(table)} ({_columns(names)}) VALUES {places}"  # noqa: S608
        self._query(table, statement, [cell for each in rows for cell in each.values()], within_s, reads=False)

    def count(self, table: Table, within_s: float) -> int:
        """Return the number of rows, those that are stored twice counted twice.

        Raises:
            NoTable: there is no such table.
            ServiceError: it can't be read.
        """
        (answer,) = self._query(table, f"SELECT count(*) AS n FROM {self._quoted(table)}", [], within_s)  # noqa: S608
        return int(answer["n"])

    def versions(self, table: Table, ids: Sequence[str], within_s: float) -> dict[str, int]:
        """Return the newest stored version of each of these ids that is there.

        Raises:
            NoTable: there is no such table.
            ServiceError: it can't be read.
        """
        newest: dict[str, int] = {}
        statement = f"SELECT id, version FROM {self._quoted(table)} WHERE id IN ({_places(ids)})"  # noqa: S608
        for entry in self._query(table, statement, ids, within_s):
            newest[entry["id"]] = max(int(entry["version"]), newest.get(entry["id"], -1))
        return newest

    def listed(self, table: Table, since: float, deadline: float) -> list[Row]:
        """Return id, version and stored_at of all rows stored since a writer's time, duplicates included.

        Args:
            table: which.
            since: Unix seconds.
            deadline: of the monotonic clock, for all pages.

        Raises:
            NoTable: there is no such table.
            ServiceError: it can't be read.
        """
        rows: list[Row] = []
        after: tuple[float, str] = (since, "")
        statement = (
            f"SELECT id, version, stored_at FROM {self._quoted(table)} "  # noqa: S608
            f"WHERE stored_at > $1 OR (stored_at = $1 AND id > $2) ORDER BY stored_at, id LIMIT {_LIST_ROWS}"
        )
        while True:
            page = self._query(table, statement, after, deadline - time.monotonic())
            rows += page
            if len(page) < _LIST_ROWS:
                return rows
            after = float(page[-1]["stored_at"]), str(page[-1]["id"])

    def records(self, table: Table, ids: Sequence[str], within_s: float) -> list[Record]:
        """Return the records of these ids, every stored version of each, as far as they are visible.

        Raises:
            NoTable: there is no such table.
            ServiceError: it can't be read, or a record in it can't.
        """
        statement = f"SELECT {RECORD} FROM {self._quoted(table)} WHERE id IN ({_places(ids)})"  # noqa: S608
        return [_parsed(table, entry) for entry in self._query(table, statement, ids, within_s)]

    def _query(self, table: Table, sql: str, params: Sequence[Any], within_s: float, reads: bool = True) -> list[Row]:
        """Send a statement, and tell two refusals apart: a missing table, and one whose columns are not those of this version."""
        try:
            return self._service.query(sql, params, within_s=within_s, reads=reads)
        except ServiceError as error:
            text = str(error)
            if not 400 <= error.status < 500 or error.status in (401, 402, 403, 429):
                raise
            if "column" in text or "type" in text:
                raise ServiceError(
                    f"The Deeplake table {self.name(table)} is not as this version made it: {text} "
                    "It was changed by hand or by another version; set another [lake] tables in lab.toml, or restore it.",
                    status=error.status,
                ) from None
            if "does not exist" in text or "not found" in text.lower() or "access method" in text:
                raise NoTable(f"The table {self.name(table)} is not visible in Deeplake yet.", retry=True, status=error.status) from None
            raise

    def _quoted(self, table: Table) -> str:
        return f'"{self.name(table)}"'


def _shared(table: Table, record: Record) -> dict[str, Any]:
    """Return the row as the service keeps it: without the columns that only serve the copy."""
    hidden = {name for name, column in TABLES[table].items() if column.hidden}
    return {name: cell for name, cell in row(table, record).items() if name not in hidden}


def _parsed(table: Table, entry: Row) -> Record:
    try:
        return parse(table, str(entry[RECORD]))
    except (KeyError, ValueError) as error:
        raise ServiceError(
            f"A row of {table} in Deeplake can't be read ({type(error).__name__}): a newer version may have written it."
        ) from error


def _columns(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _places(values: Sequence[Any]) -> str:
    return ", ".join(f"${n + 1}" for n in range(len(values)))
