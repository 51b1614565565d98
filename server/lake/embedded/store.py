"""The lake as a folder of Deeplake datasets: the default, for one lab on one machine.

Filters, orders and counts are answered from the typed columns in memory (`catalog`), full text by Deeplake's BM25 index,
meaning by the stored vectors (`meaning`), records from Deeplake by position. Deeplake is imported on the first read of a table that has rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar, get_args

from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Query
from autoresearch_mcp.server.lake.embedded.dataset import Dataset
from autoresearch_mcp.server.lake.schema import parse
from autoresearch_mcp.server.models import Record, Table
from autoresearch_mcp.server.search.embedding import Embedder
from autoresearch_mcp.server.search.text import rank, terms

T = TypeVar("T")
_MOST_WORDS = 64
_FEW = 2_000  # rows whose terms are read and ranked here


class EmbeddedLake:
    """A `Lake` in the folder `path`, which is made on the first write. Safe to use from several threads.

    It reads a table under that table's lock; writers in other processes wait for each other and never for readers.
    """

    def __init__(self, path: Path, embedder: Embedder | None = None) -> None:
        self._tables = {table: Dataset(path, table, embedder) for table in get_args(Table)}

    def append(self, table: Table, records: Sequence[Record]) -> None:
        dataset = self._tables[table]
        with dataset.lock:
            dataset.append(records)

    def writing(self, table: Table) -> AbstractContextManager[None]:
        """The table's writers' lock, for whoever does more to its files than `append`."""
        return self._tables[table].writing()

    def present(self, table: Table, ids: Sequence[str]) -> dict[str, int]:
        def answer(dataset: Dataset) -> dict[str, int]:
            return {id: version for id in ids if (version := dataset.catalog.version(id)) is not None}

        return self._read(table, answer)

    def get(self, table: Table, ids: Sequence[str]) -> list[Record]:
        def answer(dataset: Dataset) -> list[Record]:
            return _records(table, dataset, [dataset.catalog.newest[id] for id in ids if id in dataset.catalog.newest])

        return self._read(table, answer)

    def select(self, table: Table, query: Query) -> list[Record]:
        return self._read(table, lambda dataset: _records(table, dataset, dataset.catalog.select(query)))

    def count(self, table: Table, where: tuple[Condition, ...] = (), group_by: str | None = None) -> dict[str, int]:
        return self._read(table, lambda dataset: dataset.catalog.count(where, group_by))

    def records(self, table: Table) -> Iterator[Record]:
        """All of them, newest version each, a few thousand at a time."""
        ids = self._read(table, lambda dataset: list(dataset.catalog.newest))
        for first in range(0, len(ids), 2_000):
            yield from self.get(table, ids[first : first + 2_000])

    def cells(self, table: Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        return self._read(table, lambda dataset: dataset.catalog.cells(columns))

    def search(self, text: str, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        words = terms(text)[:_MOST_WORDS]
        if not words:
            return [(record, 0.0) for record in self.select("memories", Query(where, limit=limit))]

        def answer(dataset: Dataset) -> list[tuple[Record, float]]:
            best = _best(dataset, words, where, limit)
            return list(zip(_records("memories", dataset, [position for position, _ in best]), (score for _, score in best)))

        return self._read("memories", answer)

    def nearest(self, vector: Any, where: tuple[Condition, ...] = (), limit: int = 10) -> list[tuple[Record, float]]:
        def answer(dataset: Dataset) -> list[tuple[Record, float]]:
            catalog = dataset.catalog
            everything = not where and len(catalog.newest) == catalog.rows
            best = dataset.nearest(vector, None if everything else catalog.passing(where), limit)
            return list(zip(_records("memories", dataset, [position for position, _ in best]), (cosine for _, cosine in best)))

        return self._read("memories", answer)

    def warning(self) -> str:
        return ""

    def close(self) -> None:
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
    """The best hits that meet the conditions.

    Where few rows meet them, those are ranked among themselves. Else the index is asked for as many as should hold enough of
    them, and for more until the last hit ranks below all that are wanted.
    """
    catalog = dataset.catalog
    created = catalog.column("created_at")
    asked = max(64, 4 * limit)
    fits: set[int] | None = None
    if where:
        fits = set(catalog.passing(where))
        if len(fits) <= _FEW:
            few = list(fits)
            ranks = zip(few, rank(words, [text.split() for text in dataset.terms(few)]))
            return sorted((hit for hit in ranks if hit[1] > 0), key=lambda hit: (-hit[1], -created[hit[0]]))[:limit]
        asked = max(asked, 2 * limit * catalog.rows // len(fits))
    while True:
        hits = dataset.matches(words, asked)
        scores = {catalog.newest[id]: score for id, version, score in hits if catalog.version(id) == version}
        found = scores if fits is None else fits.intersection(scores)
        ranked = sorted(found, key=lambda position: (-scores[position], -created[position]))[:limit]
        if len(hits) < asked or (len(ranked) == limit and hits[-1][2] < scores[ranked[-1]]):
            return [(position, scores[position]) for position in ranked]
        asked *= 4
