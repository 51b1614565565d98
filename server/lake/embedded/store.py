"""The lake as a folder of Deeplake datasets: the default, for one lab on one machine.

The typed columns in memory (`catalog`) answer filters, orders and counts. Full text is answered by an index in memory, or by Deeplake's
where there are many memories; the stored vectors answer meaning, and records come from Deeplake by position. The first read of a
table that has rows imports Deeplake.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar, get_args

from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Query
from autoresearch_mcp.server.lake.embedded.dataset import Dataset
from autoresearch_mcp.server.lake.schema import TABLES, parse
from autoresearch_mcp.server.models import Record, Table
from autoresearch_mcp.server.search.embedding import Embedder
from autoresearch_mcp.server.search.text import rank, terms

T = TypeVar("T")
_MOST_WORDS = 64
_KNOWN = 5_000  # rows whose terms are kept in memory: however few there are, Deeplake's index takes 10 ms of a core, in many threads
_FEW = 2_000  # rows whose terms are read and ranked here, or whose cells are read at a time
_FEW_LONG = 500  # of rows with long text


class EmbeddedLake:
    """A `Lake` in the folder `path`, which is made on the first write. Thread-safe.

    It reads a table under that table's lock; writers in other processes wait for each other and never for readers.
    """

    def __init__(self, path: Path, embedder: Embedder | None = None) -> None:
        self._tables = {table: Dataset(path, table, embedder) for table in get_args(Table)}

    def append(self, table: Table, records: Sequence[Record]) -> None:
        """Store the records that are not there yet in this version or a newer one; on return they survive a power cut.

        Raises:
            LakeUnavailable: they may be stored or not. Repeating the call is safe.
        """
        dataset = self._tables[table]
        with dataset.lock:
            dataset.append(records)

    def writing(self, table: Table) -> AbstractContextManager[None]:
        """Hold the table's writers' lock, to change its files by other means than `append`.

        Raises:
            LakeUnavailable: another process holds it for too long.
        """
        return self._tables[table].writers_lock.held()

    def present(self, table: Table, ids: Sequence[str]) -> dict[str, int]:
        """Return the newest stored version of each of these ids that is there.

        Raises:
            LakeUnavailable: the table can't be read.
        """

        def answer(dataset: Dataset) -> dict[str, int]:
            return {id: version for id in ids if (version := dataset.catalog.version(id)) is not None}

        return self._read(table, answer)

    def get(self, table: Table, ids: Sequence[str]) -> list[Record]:
        """Return the records that exist, in the order of `ids`.

        Raises:
            LakeUnavailable: the table can't be read.
        """

        def answer(dataset: Dataset) -> list[Record]:
            return _records(table, dataset, [dataset.catalog.newest[id] for id in ids if id in dataset.catalog.newest])

        return self._read(table, answer)

    def select(self, table: Table, query: Query) -> list[Record]:
        """Return one page of a query.

        Raises:
            LakeUnavailable: the table can't be read.
            LabError: `bad_query`, for conditions and orders that the table doesn't have.
        """
        return self._read(table, lambda dataset: _records(table, dataset, dataset.catalog.select(query)))

    def count(self, table: Table, where: tuple[Condition, ...] = (), group_by: str | None = None) -> dict[str, int]:
        """Return the number of rows by the group column's value; without `group_by`, one entry under the empty string.

        Raises:
            LakeUnavailable: the table can't be read.
            LabError: `bad_query`, for conditions and groups that the table doesn't have.
        """
        return self._read(table, lambda dataset: dataset.catalog.count(where, group_by))

    def records(self, table: Table) -> Iterator[Record]:
        """Yield all records, in their newest versions, a few thousand at a time.

        Raises:
            LakeUnavailable: the table can't be read.
            ValueError: a record can't.
        """
        ids = self._read(table, lambda dataset: list(dataset.catalog.newest))
        for first in range(0, len(ids), 2_000):
            yield from self.get(table, ids[first : first + 2_000])

    def cells(self, table: Table, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield all rows of this moment, in any order, as the cells of these columns.

        Raises:
            LakeUnavailable: the table can't be read, now or while the rows are.
        """
        ids = self._read(table, lambda dataset: list(dataset.catalog.newest))
        return self._parts(table, columns, ids)

    def _parts(self, table: Table, columns: Sequence[str], ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        size = _FEW_LONG if any(TABLES[table][name].long for name in columns) else _FEW
        for first in range(0, len(ids), size):
            part = ids[first : first + size]

            def answer(dataset: Dataset, part: Sequence[str] = part) -> list[tuple[Any, ...]]:
                newest = dataset.catalog.newest  # by id, because a rewrite moves rows
                return dataset.catalog.cells([newest[id] for id in part if id in newest], columns)

            yield from self._read(table, answer)

    def search(self, text: str, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        """Return memories and their scores by full-text relevance, best first, the newest first on ties.

        Raises:
            LakeUnavailable: the table can't be read.
            LabError: `bad_query`, for conditions that the table doesn't have.
        """
        words = terms(text)[:_MOST_WORDS]
        if not words:
            return [(record, 0.0) for record in self.select("memories", Query(where, limit=limit))]

        def answer(dataset: Dataset) -> list[tuple[Record, float]]:
            best = _best(dataset, words, where, limit)
            return list(zip(_records("memories", dataset, [position for position, _ in best]), (score for _, score in best)))

        return self._read("memories", answer)

    def nearest(self, vector: Any, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        """Return memories and the cosines of their embeddings with `vector`, best first, the newest first on ties.

        Raises:
            LakeUnavailable: the table can't be read.
            LabError: `bad_query`, for conditions that the table doesn't have.
        """

        def answer(dataset: Dataset) -> list[tuple[Record, float]]:
            catalog = dataset.catalog
            everything = not where and len(catalog.newest) == catalog.rows
            best = dataset.nearest(vector, None if everything else catalog.passing(where), limit)
            return list(zip(_records("memories", dataset, [position for position, _ in best]), (cosine for _, cosine in best)))

        return self._read("memories", answer)

    def warning(self) -> str:
        """Return nothing: the folder is the whole log."""
        return ""

    def close(self) -> None:
        """Let go of what is open; the next call opens it again."""
        for dataset in self._tables.values():
            with dataset.lock:
                dataset.forget()

    def _read(self, table: Table, answer: Callable[[Dataset], T]) -> T:
        dataset = self._tables[table]
        with dataset.lock:
            try:
                dataset.refresh()
                return answer(dataset)
            except LakeUnavailable:  # a generation may have been removed while this process slept in it
                dataset.forget()
                dataset.refresh()
                return answer(dataset)


def _records(table: Table, dataset: Dataset, positions: Sequence[int]) -> list[Record]:
    return [parse(table, text) for text in dataset.texts(positions)]


def _best(dataset: Dataset, words: Sequence[str], where: Sequence[Condition], limit: int) -> list[tuple[int, float]]:
    """Return the positions and scores of the best hits that meet the conditions.

    Where few rows meet them, those are ranked among themselves; where there are few in all, the index in memory ranks them. Else Deeplake's is
    asked for as many as should hold enough of them, and for more until the last hit ranks below all that are wanted.
    """
    catalog = dataset.catalog
    created, versions, newest = catalog.column("created_at"), catalog.column("version"), catalog.newest
    fits: set[int] | None = None
    if where:
        fits = set(catalog.passing(where))
        if len(fits) <= _FEW:
            few = list(fits)
            ranks = zip(few, rank(words, [text.split() for text in dataset.terms(few)]))
            return sorted((hit for hit in ranks if hit[1] > 0), key=lambda hit: (-hit[1], -created[hit[0]]))[:limit]

    def best(scores: Mapping[int, float], among: Collection[int]) -> list[int]:
        return sorted((each for each in among if each in scores), key=lambda position: (-scores[position], -created[position]))[:limit]

    if catalog.rows <= _KNOWN:
        scores = dataset.ranked(words)
        return [(position, scores[position]) for position in best(scores, newest.values() if fits is None else fits)]
    asked = max(64, 4 * limit, 2 * limit * catalog.rows // len(fits) if fits else 0)
    while True:
        hits = dataset.matches(words, asked)
        scores = {row: score for id, version, score in hits if (row := newest.get(id)) is not None and versions[row] == version}
        ranked = best(scores, scores if fits is None else fits)
        if len(hits) < asked or (len(ranked) == limit and hits[-1][2] < scores[ranked[-1]]):
            return [(position, scores[position]) for position in ranked]
        asked *= 16
