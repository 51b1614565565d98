"""The lake in Deeplake's managed tables: several machines append to one log, and each keeps a copy in its own folder.

- The copy is an embedded lake. All reads are answered from it, so they are fast, the same as without the service, and go
  on while it is away. A read first follows the shared log, if the last look is more than a few seconds old.
- `append` writes to the service only. A row gets into the copy by being read back, so what `present` names is stored there.
- New rows are found by comparing the number of rows with what was seen: first among those of the last minutes, by the
  writers' clocks, and where that doesn't explain the number, among all. No clock and no order of arrival is trusted.
- Before an INSERT its ids are looked up, and one that may have had its effect is not repeated for `HOLD_S`: rows may take
  seconds to be visible. Should a row be stored twice nevertheless (its writer was killed in between), readers see it once.
- Rows that only the copy has, written before there was a token or by a process without one, are sent with a process' first
  append. In the same way a new version of the schema, which has tables of its own, gets all rows: upgrade a swarm together.

Gives up: disk for the copy, and freshness: other machines' rows are seen `SYNC_EVERY_S` after they are visible.
The tables hold the columns of `schema` with -1 for no value, `stored_at` (the writer's clock), and the record as JSON.
"""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Query
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.lake.managed.service import Row, Service, ServiceError
from autoresearch_mcp.server.lake.schema import RECORD, SCHEMA_VERSION, TABLES, parse, row
from autoresearch_mcp.server.models import Record, Table
from autoresearch_mcp.server.retry import pause_s
from autoresearch_mcp.server.search.embedding import Embedder
from autoresearch_mcp.trainer import files
from autoresearch_mcp.trainer.protocol import read_json, write_json

SYNC_EVERY_S = 5.0
HOLD_S = 60.0  # a sent row that is not visible yet is not sent again before
READ_S = 2.0  # of a tool call, for following
WRITE_S = 30.0  # of the runner, for a batch
OVERLAP_S = 900.0  # how far writers' clocks may be apart before finding a row costs a look at all
AWAY_S = (5.0, 60.0)  # first and longest pause of reads after the service was away
_LIST_ROWS = 5_000
_FETCH_ROWS = 200
_INSERT_ROWS = 50

_TYPES = {"text": "TEXT", "list": "TEXT", "integer": "BIGINT", "real": "DOUBLE PRECISION"}


@dataclass
class SyncState:
    """What is known of the shared log, for every process of this machine: rows seen and the newest `stored_at`, by table."""

    rows: dict[str, int] = field(default_factory=dict)
    newest: dict[str, float] = field(default_factory=dict)
    unread: int = 0
    reached_at: float = 0.0
    failed_at: float = 0.0
    failures: int = 0
    why: str = ""

    @property
    def due(self) -> bool:
        wait_s = pause_s(AWAY_S, self.failures) if self.failures else SYNC_EVERY_S
        return not 0 <= time.time() - max(self.reached_at, self.failed_at) < wait_s


class ManagedLake:
    """A `Lake` in the tables `{prefix}v{schema}_experiments`, ... of the service, with its copy in `folder`. Safe to use from several threads."""

    def __init__(self, folder: Path, service: Service, prefix: str, embedder: Embedder | None = None) -> None:
        self._folder = folder
        self.service = service
        self._prefix = f"{prefix}v{SCHEMA_VERSION}_"
        self._copy = EmbeddedLake(folder, embedder)
        self._path = folder / "shared.json"
        self._ready: set[Table] = set()  # tables that this process has written to
        self._sent: dict[tuple[Table, str, int], float] = {}  # not read back yet

    # Writing

    def append(self, table: Table, records: Sequence[Record]) -> None:
        newest = {record.id: record for record in sorted(records, key=lambda record: record.version)}
        first = table not in self._ready
        if first:
            self._create(table)
        self._send(table, list(newest.values()))
        if first:
            self._send(table, self._unshared(table))
            self._ready.add(table)

    def _send(self, table: Table, records: Sequence[Record]) -> None:
        for first in range(0, len(records), _INSERT_ROWS):
            batch = {record.id: record for record in records[first : first + _INSERT_ROWS]}
            stored = self._versions(table, list(batch))
            long_ago = time.monotonic() - HOLD_S
            fresh = [
                record
                for id, record in batch.items()
                if stored.get(id, -1) < record.version and self._sent.get((table, id, record.version), long_ago) <= long_ago
            ]
            if fresh:
                self._insert(table, fresh)

    def _insert(self, table: Table, records: Sequence[Record]) -> None:
        now = time.time()
        rows = [_shared(table, record) | {"stored_at": now} for record in records]
        names = list(rows[0])
        groups = (", ".join(f"${len(names) * n + i + 1}" for i in range(len(names))) for n in range(len(rows)))
        statement = f"INSERT INTO {self._name(table)} ({_columns(names)}) VALUES {', '.join(f'({group})' for group in groups)}"  # noqa: S608
        keys = [(table, record.id, record.version) for record in records]
        self._sent |= dict.fromkeys(keys, time.monotonic())
        try:
            self._query(table, statement, [cell for each in rows for cell in each.values()], WRITE_S, reads=False)
        except ServiceError as error:
            if not error.maybe_done:
                for key in keys:
                    del self._sent[key]
            raise

    def _create(self, table: Table) -> None:
        try:
            self._count(table, WRITE_S)
            return
        except _NoTable:
            columns = {name: _TYPES[column.type] for name, column in TABLES[table].items() if not column.hidden}
            columns |= {"stored_at": "DOUBLE PRECISION", RECORD: "TEXT"}
            text = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        try:
            self._query(table, f"CREATE TABLE IF NOT EXISTS {self._name(table)} ({text}) USING deeplake", [], WRITE_S)
        except ServiceError as error:
            if "already exists" not in str(error) and "duplicate key" not in str(error):  # another machine was faster
                raise

    def _unshared(self, table: Table) -> list[Record]:
        """Records of the copy that the service lacks."""
        mine = self._copy.select(table, Query(order_by="id", limit=1_000_000)) if self._copy.count(table)[""] else []
        if not mine:
            return []
        theirs = {(entry["id"], int(entry["version"])) for entry in self._list(table, 0.0, time.monotonic() + WRITE_S)}
        return [record for record in mine if (record.id, record.version) not in theirs]

    # Reading

    def present(self, table: Table, ids: Sequence[str]) -> dict[str, int]:
        sent = any((table, id) == key[:2] for key in self._sent for id in ids) if self._sent else False
        self._sync(WRITE_S if sent else None, now=sent)
        found = self._copy.present(table, ids)
        for key in [key for key in self._sent if key[0] == table and found.get(key[1], -1) >= key[2]]:
            del self._sent[key]
        return found

    def get(self, table: Table, ids: Sequence[str]) -> list[Record]:
        self._sync()
        return self._copy.get(table, ids)

    def select(self, table: Table, query: Query) -> list[Record]:
        self._sync()
        return self._copy.select(table, query)

    def count(self, table: Table, where: tuple[Condition, ...] = (), group_by: str | None = None) -> dict[str, int]:
        self._sync()
        return self._copy.count(table, where, group_by)

    def cells(self, table: Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        self._sync()
        return self._copy.cells(table, columns)

    def search(self, text: str, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        self._sync()
        return self._copy.search(text, where, limit)

    def nearest(self, vector: Any, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        self._sync()
        return self._copy.nearest(vector, where, limit)

    def warning(self) -> str:
        state = self._sync_state()
        if state.failures and not state.reached_at:
            return f"The shared log was not reached from here yet; this is what this machine knows. {state.why}"
        if state.failures:
            age = _age(time.time() - state.reached_at)
            return f"The shared log was last read {age} ago; what other machines added since is missing. {state.why}"
        if state.unread:
            return f"{state.unread} records of the shared log are still on their way to this machine."
        return ""

    def shared_rows(self) -> dict[Table, int | None]:
        """How many rows each table of the service has; None where there is no such table yet. Checks the tables' columns.

        Raises:
            ServiceError: it can't be reached, refuses, or has tables of another form.
        """
        found: dict[Table, int | None] = {}
        for table in get_args(Table):
            names = _columns([name for name, column in TABLES[table].items() if not column.hidden])
            try:
                found[table] = self._count(table, WRITE_S)
                self._query(table, f"SELECT {names}, stored_at, {RECORD} FROM {self._name(table)} LIMIT 1", [], WRITE_S)  # noqa: S608
            except _NoTable:
                found[table] = None
        return found

    def close(self) -> None:
        self.service.close()
        self._copy.close()

    # Following

    def _sync(self, within_s: float | None = None, now: bool = False) -> None:
        """Brings the copy up to date, if that is due and no other process is at it. Failing is noted for `warning`, not raised."""
        if not (now or self._sync_state().due):
            return
        with self._alone() as alone:
            state = self._sync_state()
            if not alone or not (now or state.due):
                return
            deadline = time.monotonic() + (READ_S if within_s is None else within_s)
            try:
                state.unread = sum([self._pull(table, state, deadline) for table in get_args(Table)])
                state.reached_at, state.failures, state.why = time.time(), 0, ""
            except ServiceError as error:
                state.failed_at, state.failures, state.why = time.time(), state.failures + 1, str(error)
            write_json(self._path, asdict(state))

    def _pull(self, table: Table, state: SyncState, deadline: float) -> int:
        """Reads what is new in a table. Returns how many rows are known to be there and were not read for lack of time."""
        try:
            count = self._count(table, deadline - time.monotonic())
        except _NoTable:
            if state.rows.get(table):
                raise ServiceError(f"The table {self._prefix}{table} is gone from Deeplake; the next record makes it again.") from None
            return 0
        seen = state.rows.get(table, 0)
        if count <= seen:
            return 0
        since = state.newest.get(table, 0.0) - OVERLAP_S
        listed = self._list(table, since, deadline)
        missing = self._missing(table, listed)
        explained = seen + len(missing)
        if explained < count and since > 0:
            listed = self._list(table, 0.0, deadline)
            missing = self._missing(table, listed)
            explained = max(count, len(listed))  # with rows that are stored twice
        left = self._fetch(table, missing, deadline)
        if not left:
            state.rows[table] = max(explained, count)
            clocks = [float(entry["stored_at"]) for entry in listed]
            state.newest[table] = max([state.newest.get(table, 0.0), *(clock for clock in clocks if clock <= time.time())])
        return left

    def _list(self, table: Table, since: float, deadline: float) -> list[Row]:
        """Ids and versions of all rows stored since, duplicates included."""
        found: list[Row] = []
        after: tuple[float, str] = (since, "")
        statement = (
            f"SELECT id, version, stored_at FROM {self._name(table)} "  # noqa: S608
            f"WHERE stored_at > $1 OR (stored_at = $1 AND id > $2) ORDER BY stored_at, id LIMIT {_LIST_ROWS}"
        )
        while True:
            page = self._query(table, statement, after, deadline - time.monotonic())
            found += page
            if len(page) < _LIST_ROWS:
                return found
            after = float(page[-1]["stored_at"]), str(page[-1]["id"])

    def _missing(self, table: Table, listed: Iterable[Row]) -> list[str]:
        newest: dict[str, int] = {}
        for entry in listed:
            newest[str(entry["id"])] = max(int(entry["version"]), newest.get(str(entry["id"]), -1))
        have = self._copied(table, list(newest))
        return [id for id, version in newest.items() if have.get(id, -1) < version]

    def _copied(self, table: Table, ids: Sequence[str]) -> dict[str, int]:
        return self._copy.present(table, ids) if ids else {}

    def _fetch(self, table: Table, ids: Sequence[str], deadline: float) -> int:
        """Copies these rows, as many as there is time for. Returns how many are left."""
        left = 0
        for first in range(0, len(ids), _FETCH_ROWS):
            if first and time.monotonic() > deadline:
                return left + len(ids) - first
            batch = ids[first : first + _FETCH_ROWS]
            statement = f"SELECT {RECORD} FROM {self._name(table)} WHERE id IN ({_places(batch)})"  # noqa: S608
            rows = self._query(table, statement, batch, max(READ_S, deadline - time.monotonic()))
            records = [_parsed(table, entry) for entry in rows]
            self._copy.append(table, records)
            left += len(set(batch) - {record.id for record in records})  # listed by one replica, not yet known to another
        return left

    def _versions(self, table: Table, ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        statement = f"SELECT id, version FROM {self._name(table)} WHERE id IN ({_places(ids)})"  # noqa: S608
        for entry in self._query(table, statement, ids, WRITE_S):
            found[entry["id"]] = max(int(entry["version"]), found.get(entry["id"], -1))
        return found

    def _count(self, table: Table, within_s: float) -> int:
        (answer,) = self._query(table, f"SELECT count(*) AS n FROM {self._name(table)}", [], within_s)  # noqa: S608
        return int(answer["n"])

    def _query(self, table: Table, sql: str, params: Sequence[Any], within_s: float, reads: bool = True) -> list[Row]:
        """A query whose refusal is told apart: a missing table, or one whose columns are not those of this version."""
        try:
            return self.service.query(sql, params, within_s=within_s, reads=reads)
        except ServiceError as error:
            text = str(error)
            if not 400 <= error.status < 500 or error.status in (401, 402, 403, 429):
                raise
            if "column" in text or "type" in text:
                raise ServiceError(
                    f"The Deeplake table {self._prefix}{table} is not as this version made it: {text} "
                    "It was changed by hand or by another version; set another [lake] tables in lab.toml, or restore it.",
                    status=error.status,
                ) from None
            if "does not exist" in text or "not found" in text.lower() or "access method" in text:
                raise _NoTable(
                    f"The table {self._prefix}{table} is not visible in Deeplake yet.", retry=True, status=error.status
                ) from None
            raise

    def _name(self, table: Table) -> str:
        return f'"{self._prefix}{table}"'

    def _sync_state(self) -> SyncState:
        try:
            return SyncState(**(read_json(self._path) or {}))
        except (TypeError, OSError):
            return SyncState()  # everything is looked at again

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether this process may follow now: one of a machine does at a time, and nobody waits for it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder / "shared.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LakeUnavailable(f"{self._folder} can't be written ({error.strerror}).") from error
        try:
            yield files.try_lock(handle)
        finally:
            os.close(handle)


class _NoTable(ServiceError):
    """The table is not there, or not there yet."""


def _shared(table: Table, record: Record) -> dict[str, Any]:
    """The row as the service keeps it: without the columns that only serve the copy."""
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


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
