"""What a lake promises: append-only tables of finished experiments, memories and promotions, shared by every reader.

- One process a host writes (the runner); any number read at the same time.
- `append` is idempotent: a row is known by its id, and its newest `version` is the one that readers see.
- A row that `append` acknowledged may take seconds to be readable (managed tables). What `present` names is readable,
  and survives a power cut.
- Reads raise `LakeUnavailable` when the store is away; nothing is lost, because the ledger keeps what was not read back.

`Query` is small on purpose: every store and the ledger's overlay must answer it in the same way. Its conditions and its
order are defined here, once, over the cells of `schema.cells`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from autoresearch_mcp.server.models import Record, Table

if TYPE_CHECKING:
    from autoresearch_mcp.server.search.embedding import Vectors as Vector

T = TypeVar("T")
# contains: substring, any case; has: the list column holds the value; has any: one of the values
Operator = Literal["=", ">=", "<=", "in", "contains", "has", "has any"]


class LakeUnavailable(Exception):
    """The store could not be reached or opened; the text says why and what to do, and holds no secret."""


class LakeDamaged(LakeUnavailable):
    """Files of the store are not as they were written. `repair` makes it whole."""


@dataclass(frozen=True)
class Condition:
    """A test of one column. A null cell passes only `= None` and an `in` that lists None."""

    column: str
    op: Operator
    value: Any

    def predicate(self) -> Callable[[Any], bool]:
        """Return the test as a function of a cell, as `schema.cells` gives it."""
        value = self.value
        match self.op:
            case "=":
                return lambda cell: bool(cell == value)
            case ">=":
                return lambda cell: cell is not None and cell >= value
            case "<=":
                return lambda cell: cell is not None and cell <= value
            case "in":
                allowed = frozenset(value)
                return lambda cell: cell in allowed
            case "contains":
                needle = value.casefold()
                return lambda cell: cell is not None and needle in cell.casefold()
            case "has":
                return lambda cell: value in cell
            case "has any":
                wanted = frozenset(value)
                return lambda cell: not wanted.isdisjoint(cell)


@dataclass(frozen=True)
class Query:
    """Filter, order and page. Rows whose order column is null come last; ties are broken by id, in the same direction.

    `after` is the (order value, id) of the last row of the page before.
    """

    where: tuple[Condition, ...] = ()
    order_by: str = "created_at"
    descending: bool = True
    limit: int = 20
    after: tuple[Any, str] | None = None

    def page(self, rows: Iterable[T], key: Callable[[T], tuple[Any, str]]) -> list[T]:
        """Return the first `limit` of some rows in this order and past `after`.

        Args:
            rows: in any order; all of them pass the conditions.
            key: gives a row's order value and its id.
        """
        keyed = [(key(row), row) for row in rows]
        if self.after is not None:
            keyed = [each for each in keyed if self._follows(each[0], self.after)]
        known, null = [each for each in keyed if each[0][0] is not None], [each for each in keyed if each[0][0] is None]
        known.sort(key=itemgetter(0), reverse=self.descending)
        null.sort(key=lambda each: each[0][1], reverse=self.descending)
        return [row for _, row in [*known, *null][: self.limit]]

    def _follows(self, row: tuple[Any, str], last: tuple[Any, str]) -> bool:
        if (row[0] is None) != (last[0] is None):
            return row[0] is None
        ours, theirs = (row[1:], last[1:]) if row[0] is None else (row, last)
        return ours < theirs if self.descending else ours > theirs


class Lake(Protocol):
    """The contract of every store; the module's docstring has its promises. Thread-safe."""

    def append(self, table: Table, records: Sequence[Record]) -> None:
        """Store the records that are not there yet in this version or a newer one.

        Args:
            table: which; it is made with its first record.
            records: of an id, only the newest version counts.

        Raises:
            LakeUnavailable: they may be stored or not. Repeating the call is safe.
        """
        ...

    def present(self, table: Table, ids: Sequence[str]) -> dict[str, int]:
        """Return the newest stored version of each of these ids that is readable now.

        Raises:
            LakeUnavailable: the store can't be read.
        """
        ...

    def get(self, table: Table, ids: Sequence[str]) -> list[Record]:
        """Return the records that exist, in the order of `ids`.

        Raises:
            LakeUnavailable: the store can't be read.
        """
        ...

    def select(self, table: Table, query: Query) -> list[Record]:
        """Return one page of a query.

        Raises:
            LakeUnavailable: the store can't be read.
            LabError: `bad_query`, for conditions and orders that the table doesn't have.
        """
        ...

    def count(self, table: Table, where: tuple[Condition, ...] = (), group_by: str | None = None) -> dict[str, int]:
        """Count the rows that meet the conditions.

        Args:
            table: which.
            where: all must hold.
            group_by: a column of text or whole numbers.

        Returns:
            Rows by the group column's value as text, null as the empty string. Without `group_by`, one entry under the empty string.

        Raises:
            LakeUnavailable: the store can't be read.
            LabError: `bad_query`, for conditions and groups that the table doesn't have.
        """
        ...

    def cells(self, table: Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield all rows of this moment, in any order, as the cells of these columns. Few are in memory at a time.

        Raises:
            LakeUnavailable: the store can't be read, now or while the rows are.
        """
        ...

    def search(self, text: str, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        """Rank memories by full-text relevance.

        Args:
            text: with no word to search for in it, every memory matches with score 0.
            where: conditions that all must hold.
            limit: the most hits to return.

        Returns:
            Memories and their scores, best first, the newest first on ties.

        Raises:
            LakeUnavailable: the store can't be read.
            LabError: `bad_query`, for conditions that the table doesn't have.
        """
        ...

    def nearest(self, vector: "Vector", where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        """Rank memories by the cosine of their embeddings with a vector.

        Args:
            vector: of the lake's model. Only memories that were embedded with that model count: none, in a lake without one.
            where: conditions that all must hold.
            limit: the most hits to return.

        Returns:
            Memories and their cosines, best first, the newest first on ties.

        Raises:
            LakeUnavailable: the store can't be read.
            LabError: `bad_query`, for conditions that the table doesn't have.
        """
        ...

    def warning(self) -> str:
        """Return how far the answers of this moment are behind the shared log, or nothing."""
        ...

    def close(self) -> None:
        """Let go of everything. A call that waits for a service in another thread fails soon."""
        ...
