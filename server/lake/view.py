"""Merges the ledger's records that are not in the lake yet with the lake's, into one answer.

An agent reads its own writes at once, and reads a record exactly once while it moves from the ledger to the lake. That
rests on an order: the ledger lets go of a record only after it was read back from the lake, and here the ledger is read
first. A record that is in both counts in its newest version. When the lake is away the answer holds the ledger's part and
says so in `warning`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from autoresearch_mcp.server.lake.base import Condition, Lake, LakeUnavailable, Query
from autoresearch_mcp.server.lake.schema import cell, check_group, check_order, predicates
from autoresearch_mcp.server.models import Memory, Record, Table
from autoresearch_mcp.server.search.embedding import Embedder, EmbeddingsUnavailable
from autoresearch_mcp.server.search.text import rank, terms

T = TypeVar("T")
Hits = list[tuple[Record, float]]
_TRIES = 10
_CHUNK = 2_000
_DEPTH = 2  # limits, how far down two rankings are fused
_RANKS = 60  # Cormack, Clarke and Buettcher (2009): how little the first ranks stand out


@dataclass(frozen=True)
class Read(Generic[T]):
    """An answer. `warning` says that the lake's part is missing and why, or is empty."""

    value: T
    warning: str = ""


@dataclass(frozen=True)
class Ranked:
    """Memories and their scores, best first, and how they were ranked. Scores compare within one answer only."""

    hits: Hits
    ranking: str


class MergedView:
    """Reads of the ledger and the lake as one log. Thread-safe.

    No read raises `LakeUnavailable`, but for `records`: the answer's `warning` says it.

    Args:
        lake: None, where there is none.
        pending: gives a table's unflushed and unfinished records, in one snapshot.
        embedder: the lake's own; with it, search ranks by meaning too.
    """

    def __init__(self, lake: Lake | None, pending: Callable[[Table], list[Record]], embedder: Embedder | None = None) -> None:
        self._lake = lake
        self._pending = pending
        self._embedder = embedder

    def get(self, table: Table, ids: Sequence[str]) -> Read[list[Record]]:
        """Return the records that exist, in the order of `ids`."""
        ours, stored, warning = self._merged(table, lambda lake, _: lake.get(table, ids))
        newest = _newest([*(stored or []), *ours.values()])
        return Read([newest[id] for id in ids if id in newest], warning)

    def select(self, table: Table, query: Query) -> Read[list[Record]]:
        """Return one page of a query.

        Raises:
            LabError: `bad_query`, for conditions and orders that the table doesn't have.
        """
        check_order(table, query)
        passes = _test(table, query.where)

        def page(lake: Lake, ours: dict[str, Record]) -> list[Record]:
            limit = query.limit
            while True:
                rows = lake.select(table, replace(query, limit=limit))
                kept = [row for row in rows if row.id not in ours or row.version >= ours[row.id].version]
                if len(rows) < limit or len(kept) >= query.limit:
                    return kept
                limit += len(rows) - len(kept)

        ours, rows, warning = self._merged(table, page)
        stored = rows or []
        known = {record.id for record in stored}
        fresh = [record for record in ours.values() if record.id not in known and passes(record)]
        return Read(query.page([*stored, *fresh], lambda record: (cell(table, record, query.order_by), record.id)), warning)

    def count(self, table: Table, where: tuple[Condition, ...] = (), group_by: str | None = None) -> Read[dict[str, int]]:
        """Count the rows that meet the conditions.

        Returns:
            Rows by the group column's value as text, null as the empty string. Without `group_by`, one entry under the empty string.

        Raises:
            LabError: `bad_query`, for conditions and groups that the table doesn't have.
        """
        if group_by is not None:
            check_group(table, group_by)
        passes = _test(table, where)

        def groups(records: Iterable[Record]) -> Counter[str]:
            values = (cell(table, record, group_by) if group_by else None for record in records if passes(record))
            return Counter("" if value is None else str(value) for value in values)

        def counted(lake: Lake, ours: dict[str, Record]) -> Counter[str]:
            for _ in range(_TRIES):
                counts = Counter(lake.count(table, where, group_by))
                counts.subtract(groups(lake.get(table, list(ours))))  # in versions that ours replace
                counts.update(groups(ours.values()))
                if len(left := _absent(lake, table, ours)) == len(ours):
                    break
                ours = left  # some arrived between these reads: count again
            return counts

        ours, counts, warning = self._merged(table, counted)
        if counts is None:
            counts = groups(ours.values())
        return Read({key: counts[key] for key in counts if counts[key]} if group_by else {"": counts[""]}, warning)

    def cells(self, table: Table, columns: Sequence[str]) -> Read[Iterator[tuple[Any, ...]]]:
        """Return all rows of this moment, in any order, as the cells of these columns. Few are in memory at a time.

        Raises:
            LakeUnavailable: while the rows are read, the lake goes away.
        """

        def begun(lake: Lake, _: dict[str, Record]) -> Iterator[tuple[Any, ...]]:
            rows = lake.cells(table, ["id", *columns])
            return chain(list(islice(rows, 1)), rows)  # the first shows whether they can be read

        ours, rows, warning = self._merged(table, begun)
        stored = (row[1:] for row in rows or () if row[0] not in ours)
        return Read(chain(stored, (tuple(cell(table, record, name) for name in columns) for record in ours.values())), warning)

    def records(self, table: Table) -> Iterator[Record]:
        """Yield all records, a few thousand at a time; those that arrive meanwhile may be missing.

        Raises:
            LakeUnavailable: the lake can't be read, so not all are known.
        """
        mine = [record.id for record in self._pending(table)]
        stored = [id for (id,) in self._lake.cells(table, ["id"])] if self._lake is not None else []
        ids = list(dict.fromkeys([*stored, *mine]))
        for first in range(0, len(ids), _CHUNK):
            page = self.get(table, ids[first : first + _CHUNK])
            if len(page.value) < len(ids[first : first + _CHUNK]):
                raise LakeUnavailable(page.warning or "records vanished while they were read")
            yield from page.value

    def search(self, text: str, where: tuple[Condition, ...] = (), limit: int = 10) -> Read[Ranked]:
        """Rank memories by full text and, with a model, by meaning; the two rankings are fused by reciprocal ranks.

        Args:
            text: with no word to search for in it, every memory matches, the newest first.
            where: conditions that all must hold.
            limit: the most hits to return.

        Raises:
            LabError: `bad_query`, for conditions that the table doesn't have.
        """
        words = terms(text)
        if not words:
            page = self.select("memories", Query(where, limit=limit))
            return Read(Ranked([(record, 0.0) for record in page.value], "newest first"), page.warning)
        vector, why_not = self._vector(text)
        depth = _DEPTH * limit if vector is not None else limit

        def both(lake: Lake, ours: dict[str, Record]) -> tuple[Hits, Hits]:
            wanted = depth + len(ours)
            return lake.search(text, where, wanted), lake.nearest(vector, where, wanted) if vector is not None else []

        ours, rankings, warning = self._merged("memories", both)
        by_lake, nearest = rankings or ([], [])
        passes = _test("memories", where)
        fresh = [record for record in ours.values() if passes(record)]
        by_words = _by_words(words, by_lake, fresh)
        if vector is not None:
            try:
                by_embedding = self._by_embedding(vector, nearest, fresh)
                ranking = f"full text (BM25) and meaning ({self._embedder.name}), fused by reciprocal ranks"  # type: ignore[union-attr]
                return Read(Ranked(_fused([by_words[:depth], by_embedding[:depth]])[:limit], ranking), warning)
            except EmbeddingsUnavailable as error:
                why_not = str(error)
        return Read(Ranked(by_words[:limit], f"full text (BM25) alone: {why_not}"), warning)

    def _vector(self, text: str) -> tuple[Any, str]:
        """Return the text's vector, or None and the reason."""
        if self._embedder is None:
            return None, "no embedding model is installed or set, see [embeddings] in the README"
        try:
            return self._embedder.embed([text])[0], ""
        except EmbeddingsUnavailable as error:
            return None, str(error)

    def _by_embedding(self, vector: Any, stored: Hits, fresh: Sequence[Record]) -> Hits:
        assert self._embedder is not None
        known = {record.id for record, _ in stored}
        unflushed = [record for record in fresh if isinstance(record, Memory) and record.id not in known]
        cosines = self._embedder.embed([record.text for record in unflushed]) @ vector if unflushed else []
        hits = [*stored, *((record, float(cosine)) for record, cosine in zip(unflushed, cosines))]
        return _sorted(hit for hit in hits if hit[1] > self._embedder.floor)

    def warning(self) -> str:
        """Return how far the lake's part of the answers is behind, or nothing, without a look at the store."""
        return self._lake.warning() if self._lake is not None else ""

    def close(self) -> None:
        """Let go of the lake."""
        if self._lake is not None:
            self._lake.close()

    def _merged(self, table: Table, lakes_part: Callable[[Lake, dict[str, Record]], T]) -> tuple[dict[str, Record], T | None, str]:
        """Return the ledger's records that the lake doesn't have, the lake's part of the answer if there is one, and the warning."""
        mine = _newest(self._pending(table))
        if self._lake is None:
            return mine, None, ""
        try:
            ours = _absent(self._lake, table, mine)
            part = lakes_part(self._lake, ours)
            return ours, part, self._lake.warning()
        except LakeUnavailable as error:
            warning = (
                f"The shared log can't be read now; this answer knows only the {len(mine)} {table} that it has not received yet. {error}"
            )
            return mine, None, warning


def _newest(records: Iterable[Record]) -> dict[str, Record]:
    newest: dict[str, Record] = {}
    for record in records:
        if record.id not in newest or newest[record.id].version < record.version:
            newest[record.id] = record
    return newest


def _absent(lake: Lake, table: Table, records: dict[str, Record]) -> dict[str, Record]:
    """Return those that the lake has not got in this version or a newer one."""
    versions = lake.present(table, list(records)) if records else {}
    return {id: record for id, record in records.items() if versions.get(id, -1) < record.version}


def _test(table: Table, where: Sequence[Condition]) -> Callable[[Record], bool]:
    tests = predicates(table, where)
    return lambda record: all(test(cell(table, record, column)) for column, test in tests)


def _by_words(words: Sequence[str], stored: Hits, fresh: Sequence[Record]) -> Hits:
    """Return the lake's ranking. Where unflushed memories match too, rank them and the lake's best together among themselves."""
    known = {record.id for record, _ in stored}
    unflushed = [record for record in fresh if record.id not in known and not set(words).isdisjoint(_terms(record))]
    if not unflushed:
        return stored
    records = [*(record for record, _ in stored), *unflushed]
    return _sorted(zip(records, rank(words, [_terms(record) for record in records])))


def _fused(rankings: Sequence[Hits]) -> Hits:
    """Rank each record once, by the sum of its reciprocal ranks."""
    records: dict[str, Record] = {}
    scores: Counter[str] = Counter()
    for ranking in rankings:
        for place, (record, _) in enumerate(ranking):
            records[record.id] = record
            scores[record.id] += 1 / (_RANKS + place + 1)  # type: ignore[assignment] # Counter of floats
    return _sorted((records[id], float(score)) for id, score in scores.items())


def _sorted(hits: Iterable[tuple[Record, float]]) -> Hits:
    return sorted(hits, key=lambda hit: (-hit[1], -hit[0].created_at))


def _terms(record: Record) -> Sequence[str]:
    assert isinstance(record, Memory)
    return _terms_of(record.text)


@lru_cache(1_000)
def _terms_of(text: str) -> Sequence[str]:
    """Cut the text of a memory into terms; each unflushed one is looked at by every search, and for hours where the log is away."""
    return tuple(terms(text))
