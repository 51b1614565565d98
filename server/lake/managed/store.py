"""The lake in Deeplake's managed tables: several machines append to one log, and each keeps a copy in its own folder.

- The copy is an embedded lake. All reads are answered from it, so they are fast, the same as without the service, and go
  on while it is away. A read first brings the copy up to date, if that was last done more than a few seconds ago.
- `append` writes to the service only. A row gets into the copy by being read back, so what `present` names is stored there.
- New rows show in the number of rows: it is compared with the number that is known. They are looked for first among those of
  the last minutes, by the writers' clocks, and where that doesn't explain the number, among all. No clock is trusted, and no
  order of arrival.
- Before an INSERT its ids are looked up, and one that may have had its effect is not repeated for `HOLD_S`: rows may take
  seconds to be visible. If a row is stored twice nevertheless (its writer was killed in between), readers see it once.
- Rows that only the copy has, written before there was a token or by a process without one, are sent with a process' first
  append. In the same way a new version of the schema, which has tables of its own, gets all rows: upgrade a swarm together.

Gives up: disk for the copy, and freshness: other machines' rows are read `SYNC_EVERY_S` after they are visible.
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
from autoresearch_mcp.server.lake.managed.tables import NoTable, SharedTables
from autoresearch_mcp.server.lake.schema import SCHEMA_VERSION
from autoresearch_mcp.server.models import Record, Table
from autoresearch_mcp.server.retry import pause_s
from autoresearch_mcp.server.search.embedding import Embedder
from autoresearch_mcp.trainer import files
from autoresearch_mcp.trainer.protocol import read_json, write_json

SYNC_EVERY_S = 5.0
HOLD_S = 60.0  # a sent row that is not visible yet is not sent again before
READ_S = 2.0  # of a tool call, to bring the copy up to date
WRITE_S = 30.0  # of the runner, for a batch
OVERLAP_S = 900.0  # how far writers' clocks may be apart before one new row costs a list of all
AWAY_S = (5.0, 60.0)  # first and longest pause of reads after the service was away
_FETCH_ROWS = 200
_INSERT_ROWS = 50


@dataclass
class SyncState:
    """What the processes of this machine know of the shared log: the number of rows and the newest `stored_at`, by table."""

    rows: dict[str, int] = field(default_factory=dict)
    newest: dict[str, float] = field(default_factory=dict)
    unread: int = 0
    reached_at: float = 0.0
    failed_at: float = 0.0
    failures: int = 0
    why: str = ""

    @property
    def due(self) -> bool:
        """Whether it is time to look at the service again."""
        wait_s = pause_s(AWAY_S, self.failures) if self.failures else SYNC_EVERY_S
        return not 0 <= time.time() - max(self.reached_at, self.failed_at) < wait_s


class ManagedLake:
    """A `Lake` in the tables `{prefix}v{schema}_experiments`, ... of the service, with its copy in `folder`. Thread-safe.

    Reads raise `LakeUnavailable` only where the copy can't be read: a service that is away is named by `warning`.
    """

    def __init__(self, folder: Path, service: Service, prefix: str, embedder: Embedder | None = None) -> None:
        self._folder = folder
        self.service = service
        self._tables = SharedTables(service, f"{prefix}v{SCHEMA_VERSION}_")
        self._copy = EmbeddedLake(folder, embedder)
        self._path = folder / "shared.json"
        self._ready: set[Table] = set()  # tables that this process has written to
        self._sent: dict[tuple[Table, str, int], float] = {}  # not read back yet

    # Writing

    def append(self, table: Table, records: Sequence[Record]) -> None:
        """Send the records that the service lacks, and with a process' first append what only the copy has.

        Args:
            table: which; it is made if it is missing.
            records: of an id, only the newest version is sent.

        Raises:
            LakeUnavailable: the service can't be reached or refuses. What was sent may be stored; the next append looks first.
        """
        newest = {record.id: record for record in sorted(records, key=lambda record: record.version)}
        first = table not in self._ready
        if first:
            self._tables.create(table, WRITE_S)
        self._send(table, list(newest.values()))
        if first:
            self._send(table, self._unshared(table))
            self._ready.add(table)

    def _send(self, table: Table, records: Sequence[Record]) -> None:
        for first in range(0, len(records), _INSERT_ROWS):
            batch = {record.id: record for record in records[first : first + _INSERT_ROWS]}
            stored = self._tables.versions(table, list(batch), WRITE_S)
            long_ago = time.monotonic() - HOLD_S
            fresh = [
                record
                for id, record in batch.items()
                if stored.get(id, -1) < record.version and self._sent.get((table, id, record.version), long_ago) <= long_ago
            ]
            if fresh:
                self._insert(table, fresh)

    def _insert(self, table: Table, records: Sequence[Record]) -> None:
        keys = [(table, record.id, record.version) for record in records]
        self._sent |= dict.fromkeys(keys, time.monotonic())
        try:
            self._tables.insert(table, records, WRITE_S)
        except ServiceError as error:
            if not error.maybe_done:
                for key in keys:
                    del self._sent[key]
            raise

    def _unshared(self, table: Table) -> list[Record]:
        """Return the records of the copy that the service lacks."""
        ours = self._copy.select(table, Query(order_by="id", limit=1_000_000)) if self._copy.count(table)[""] else []
        if not ours:
            return []
        shared = {(entry["id"], int(entry["version"])) for entry in self._tables.listed(table, 0.0, time.monotonic() + WRITE_S)}
        return [record for record in ours if (record.id, record.version) not in shared]

    # Reading

    def present(self, table: Table, ids: Sequence[str]) -> dict[str, int]:
        """Return the newest version of each id that was read back from the service.

        Args:
            table: which.
            ids: if this process has sent one of them, it looks at the service now, for up to `WRITE_S`.

        Raises:
            LakeUnavailable: the copy can't be read.
        """
        sent = any((table, id) == key[:2] for key in self._sent for id in ids) if self._sent else False
        self._sync(WRITE_S if sent else None, now=sent)
        versions = self._copy.present(table, ids)
        for key in [key for key in self._sent if key[0] == table and versions.get(key[1], -1) >= key[2]]:
            del self._sent[key]
        return versions

    def get(self, table: Table, ids: Sequence[str]) -> list[Record]:
        """Return the records that exist, in the order of `ids`.

        Raises:
            LakeUnavailable: the copy can't be read.
        """
        self._sync()
        return self._copy.get(table, ids)

    def select(self, table: Table, query: Query) -> list[Record]:
        """Return one page of a query.

        Raises:
            LakeUnavailable: the copy can't be read.
            LabError: `bad_query`.
        """
        self._sync()
        return self._copy.select(table, query)

    def count(self, table: Table, where: tuple[Condition, ...] = (), group_by: str | None = None) -> dict[str, int]:
        """Return the number of rows by the group column's value; without `group_by`, one entry under the empty string.

        Raises:
            LakeUnavailable: the copy can't be read.
            LabError: `bad_query`.
        """
        self._sync()
        return self._copy.count(table, where, group_by)

    def cells(self, table: Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield all rows of this moment, in any order, as the cells of these columns.

        Raises:
            LakeUnavailable: the copy can't be read.
        """
        self._sync()
        return self._copy.cells(table, columns)

    def search(self, text: str, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        """Return memories and their scores by full-text relevance, best first.

        Raises:
            LakeUnavailable: the copy can't be read.
            LabError: `bad_query`.
        """
        self._sync()
        return self._copy.search(text, where, limit)

    def nearest(self, vector: Any, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        """Return memories and their cosines with `vector`, best first.

        Raises:
            LakeUnavailable: the copy can't be read.
            LabError: `bad_query`.
        """
        self._sync()
        return self._copy.nearest(vector, where, limit)

    def warning(self) -> str:
        """Return how far the copy is behind the shared log and why, or nothing. Asks no service."""
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
        """Count the rows of each table of the service, and check its columns.

        Returns:
            The number of rows by table; None where there is no such table yet.

        Raises:
            ServiceError: the service can't be reached, refuses, or has tables of another form.
        """
        rows: dict[Table, int | None] = {}
        for table in get_args(Table):
            try:
                rows[table] = self._tables.count(table, WRITE_S)
                self._tables.check_columns(table, WRITE_S)
            except NoTable:
                rows[table] = None
        return rows

    def close(self) -> None:
        """Let go of everything. A call that waits for the service in another thread fails soon."""
        self.service.close()
        self._copy.close()

    # Bringing the copy up to date

    def _sync(self, within_s: float | None = None, now: bool = False) -> None:
        """Bring the copy up to date, if that is due and no other process is at it. A failure is noted for `warning`, not raised."""
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
        """Copy what is new in a table. Returns how many rows are known to be there and were not read for lack of time."""
        try:
            count = self._tables.count(table, deadline - time.monotonic())
        except NoTable:
            if state.rows.get(table):
                raise ServiceError(f"The table {self._tables.name(table)} is gone from Deeplake; the next record makes it again.") from None
            return 0
        known = state.rows.get(table, 0)
        if count <= known:
            return 0
        since = state.newest.get(table, 0.0) - OVERLAP_S
        listed = self._tables.listed(table, since, deadline)
        missing = self._missing(table, listed)
        explained = known + len(missing)
        if explained < count and since > 0:
            listed = self._tables.listed(table, 0.0, deadline)
            missing = self._missing(table, listed)
            explained = max(count, len(listed))  # with rows that are stored twice
        left = self._fetch(table, missing, deadline)
        if not left:
            state.rows[table] = max(explained, count)
            clocks = [float(entry["stored_at"]) for entry in listed]
            state.newest[table] = max([state.newest.get(table, 0.0), *(clock for clock in clocks if clock <= time.time())])
        return left

    def _missing(self, table: Table, listed: Iterable[Row]) -> list[str]:
        """Return the ids whose newest listed version the copy lacks."""
        newest: dict[str, int] = {}
        for entry in listed:
            newest[str(entry["id"])] = max(int(entry["version"]), newest.get(str(entry["id"]), -1))
        have = self._copy.present(table, list(newest)) if newest else {}
        return [id for id, version in newest.items() if have.get(id, -1) < version]

    def _fetch(self, table: Table, ids: Sequence[str], deadline: float) -> int:
        """Copy these rows, as many as there is time for. Returns how many are left."""
        left = 0
        for first in range(0, len(ids), _FETCH_ROWS):
            if first and time.monotonic() > deadline:
                return left + len(ids) - first
            batch = ids[first : first + _FETCH_ROWS]
            records = self._tables.records(table, batch, max(READ_S, deadline - time.monotonic()))
            self._copy.append(table, records)
            left += len(set(batch) - {record.id for record in records})  # listed by one replica, not yet known to another
        return left

    def _sync_state(self) -> SyncState:
        try:
            return SyncState(**(read_json(self._path) or {}))
        except (TypeError, OSError):
            return SyncState()  # everything is compared again

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Yield whether this process may sync now: one of a machine does at a time, and nobody waits for it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._folder / "shared.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LakeUnavailable(f"{self._folder} can't be written ({error.strerror}).") from error
        try:
            yield files.try_lock(handle)
        finally:
            os.close(handle)


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
