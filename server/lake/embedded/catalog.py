"""The typed columns of one table in memory, kept in step with the store by reading only the rows that are new.

It answers filters, orders, pages and counts exactly, in time that grows with the rows it looks at: an ordered page walks a
sorted column and stops when it is full. Records stay in the store. Gives up memory for it: about half a kilobyte a row, for the
columns that were asked for.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from autoresearch_mcp.server.lake.base import Condition, Query
from autoresearch_mcp.server.lake.schema import TABLES, check_group, check_order, number_of, numbers, predicates
from autoresearch_mcp.server.models import Table

_FEW = 4_000  # rows that are sorted for a page; of more, the table's order is walked

Read = Callable[[str, int, int], Sequence[Any]]  # column, first row, row after the last -> what the store holds


class Catalog:
    """The columns of one table. Not thread-safe.

    Rows are known by their position in the store. Of an id's rows, only the one with the newest version counts.

    Args:
        table: which.
        read: gives a column's stored values, from a first row up to, and without, a last one.
    """

    def __init__(self, table: Table, read: Read) -> None:
        self.rows = 0
        self.newest: dict[str, int] = {}
        self._table = table
        self._read = read
        self._columns: dict[str, list[Any]] = {}
        self._orders: dict[str, tuple[list[int], list[int]]] = {}
        self._holders: dict[str, tuple[int, dict[str, list[int]]]] = {}

    def extend(self, rows: int) -> None:
        """Read the rows that are new, up to `rows`."""
        first, self.rows = self.rows, rows
        self._orders.clear()
        ids, versions = self.column("id"), self.column("version")
        for position in range(first, rows):
            known = self.newest.get(ids[position])
            if known is None or versions[known] <= versions[position]:
                self.newest[ids[position]] = position

    def column(self, name: str) -> list[Any]:
        """Return the cells of all rows, reading those that are missing."""
        if (number := number_of(name)) is not None:
            return numbers(self.column("metrics"), number)
        known = self._columns.setdefault(name, [])
        if len(known) < self.rows:
            fresh = TABLES[self._table][name].load(self._read(name, len(known), self.rows))
            shared = {cell: cell for cell in known[-1_000:]}  # a commit, an author or a state is one object, however many rows name it
            known += [shared.setdefault(cell, cell) for cell in fresh]
        return known

    def version(self, id: str) -> int | None:
        """Return the newest version of an id, or None where it is not there."""
        position = self.newest.get(id)
        return None if position is None else self.column("version")[position]

    def select(self, query: Query) -> list[int]:
        """Return the positions of the rows of one page.

        Raises:
            LabError: `bad_query`, for conditions and orders that the table doesn't have.
        """
        check_order(self._table, query)
        tests = self._tests(query.where)
        if (few := self._narrowed(query.where)) is not None and len(few) <= _FEW:
            return query.page(_passing(few, tests), self._key(query.order_by))
        page: list[int] = []
        for chunk in self._walk(query):
            page += _passing(chunk, tests)
            if len(page) >= query.limit:
                break
        return page[: query.limit]

    def count(self, where: Sequence[Condition], group_by: str | None) -> dict[str, int]:
        """Count rows by the group column's value; without one, there is one entry under the empty string.

        Raises:
            LabError: `bad_query`, for conditions and groups that the table doesn't have.
        """
        positions = self.passing(where)
        if group_by is None:
            return {"": len(positions)}
        check_group(self._table, group_by)
        column = self.column(group_by)
        return {"" if cell is None else str(cell): n for cell, n in Counter(column[position] for position in positions).items()}

    def cells(self, positions: Sequence[int], names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return some rows as the cells of these columns. Long columns are read from the store each time."""
        return list(zip(*(self._cells_of(name, positions) for name in names)))

    def _cells_of(self, name: str, positions: Sequence[int]) -> list[Any]:
        definition = TABLES[self._table][name]
        if not definition.long or not positions:
            column = self.column(name)
            return [column[position] for position in positions]
        first, last = min(positions), max(positions)
        if last - first < 2 * len(positions):
            stored = definition.load(self._read(name, first, last + 1))
            return [stored[position - first] for position in positions]
        return [definition.load(self._read(name, position, position + 1))[0] for position in positions]

    def passing(self, where: Sequence[Condition]) -> list[int]:
        """Return the positions of the rows that meet the conditions.

        Raises:
            LabError: `bad_query`, for conditions that the table doesn't have.
        """
        tests = self._tests(where)
        few = self._narrowed(where)
        return _passing(list(self.newest.values()) if few is None else few, tests)

    def _tests(self, where: Sequence[Condition]) -> list[tuple[list[Any], Callable[[Any], bool]]]:
        return [(self.column(name), test) for name, test in predicates(self._table, where)]

    def _narrowed(self, where: Sequence[Condition]) -> list[int] | None:
        """Return the rows that may meet the most selective condition, by its index; None where no condition has one."""
        candidates = [self._holding(condition) for condition in where if self._is_indexed(condition)]
        if not candidates:
            return None
        fewest = min(candidates, key=lambda positions: len(positions))
        if len(self.newest) == self.rows:
            return fewest
        ids, newest = self.column("id"), self.newest
        return [position for position in fewest if newest[ids[position]] == position]

    def _is_indexed(self, condition: Condition) -> bool:
        kind = TABLES[self._table][condition.column].type
        return kind == "list" or (kind == "text" and condition.op == "=")

    def _holding(self, condition: Condition) -> list[int]:
        holders = self._index(condition.column)
        if condition.op == "has any":
            return list(dict.fromkeys(position for value in condition.value for position in holders.get(value, ())))
        return holders.get(condition.value, [])

    def _index(self, name: str) -> dict[str, list[int]]:
        """Return positions by text, or by each item of a list; old versions included."""
        column = self.column(name)
        known, holders = self._holders.get(name, (0, {}))
        for position in range(known, self.rows):
            cell = column[position]
            for value in (cell,) if isinstance(cell, str) else cell:
                holders.setdefault(value, []).append(position)
        self._holders[name] = self.rows, holders
        return holders

    def _walk(self, query: Query) -> Iterator[list[int]]:
        """Yield positions in the query's order and past its `after`, in chunks that grow: a full page ends the walk early."""
        known, null = self._order(query.order_by)
        if query.after is not None:
            value, id = query.after
            if value is None:
                known, null = [], self._past(null, id, self.column("id").__getitem__, query.descending)
            else:
                known = self._past(known, (value, id), self._key(query.order_by), query.descending)
        positions = known[::-1] + null[::-1] if query.descending else known + null
        first, size = 0, 4 * query.limit
        while first < len(positions):
            yield positions[first : first + size]
            first, size = first + size, size * 4

    def _order(self, name: str) -> tuple[list[int], list[int]]:
        """Return positions sorted by (cell, id), and those of null cells by id."""
        if name not in self._orders:
            column, ids = self.column(name), self.column("id")
            known = [position for position in self.newest.values() if column[position] is not None]
            null = [position for position in self.newest.values() if column[position] is None]
            self._orders[name] = sorted(known, key=self._key(name)), sorted(null, key=ids.__getitem__)
        return self._orders[name]

    def _key(self, name: str) -> Callable[[int], tuple[Any, str]]:
        column, ids = self.column(name), self.column("id")
        return lambda position: (column[position], ids[position])

    @staticmethod
    def _past(positions: list[int], last: Any, key: Callable[[int], Any], descending: bool) -> list[int]:
        if descending:
            return positions[: bisect_left(positions, last, key=key)]
        return positions[bisect_right(positions, last, key=key) :]


def _passing(positions: list[int], tests: Sequence[tuple[list[Any], Callable[[Any], bool]]]) -> list[int]:
    for column, test in tests:
        positions = [position for position in positions if test(column[position])]
    return positions
