"""The shared log of a lab: querying it, reading it whole, adding to it what was made elsewhere, and drawing it."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.commits import Commits
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.known import unknown_names
from autoresearch_mcp.server.lab.masking import without_paths
from autoresearch_mcp.server.lab.query import ORDERS, Cursor, ExperimentQuery, Where
from autoresearch_mcp.server.lab.sql_tables import SqlTables
from autoresearch_mcp.server.lab.status import LabStatus
from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Query
from autoresearch_mcp.server.lake.heldout import OTHER_TEXT, HeldOutTexts
from autoresearch_mcp.server.lake.schema import TABLES, cell
from autoresearch_mcp.server.lake.view import Read
from autoresearch_mcp.server.models import IMPORTED, Experiment, Record, Table
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.untrusted import one_line

_ROW_COLUMNS = ("id", "commit", "state", "val_bpb", "author", "hypothesis", "seed", "created_at")
_MOST_LISTED = 32  # names of further numbers in a refusal
_COLUMNS = tuple(dict.fromkeys([*TABLES["experiments"], *Experiment.model_fields]))  # as SQL names them, and the long ones
_NOT_COMPARABLE = (
    "Rows with comparable=false were measured under other conditions than the champion (device, budget, data or fixed files), or were "
    "imported: compare their metrics with nothing."
)


class History:
    """The use cases that read the log as a whole."""

    def __init__(self, core: LabCore, status: LabStatus) -> None:
        self._core = core
        self._status = status
        self._commits = Commits(core, status)
        self._tables = SqlTables(core, self._commits)

    def query_experiments(self, query: ExperimentQuery | None = None, caller: str = "") -> a.QueryAnswer:
        """Return the experiments that match all filters, in pages; with `group_by`, how many match by group; with `sql`, its rows.

        A ranking by a metric lists what can be compared with the champion first, then the rest, marked `comparable: false`.

        Args:
            query: all experiments, where it is left out.
            caller: tells who asks. Long SQL of one caller waits for itself before SQL of others waits for it.

        Raises:
            LabError: `unknown_column`, `bad_cursor`, `bad_query`, `bad_sql`, `busy`, `lake_unavailable`, or the repository's own.
        """
        query = (query or ExperimentQuery()).best_first(self._core.settings.metric)
        if query.sql is not None:
            return self._query_sql(query.sql, query.limit, caller)
        where = query.where(self._core.commit(query.commit) if query.commit is not None else None)
        if query.group_by:
            counted = self._core.view.count("experiments", where, query.group_by)
            if query.group_by == "commit":
                withdrawn = self._core.ledger.withdrawn() if query.commit is None else frozenset()
                described = self._commits.rows({commit: n for commit, n in counted.value.items() if commit not in withdrawn})
                note = counted.warning or ("" if described else self._why_nothing(query, where))
                return a.QueryAnswer(rows=described[: query.limit], matched=len(described), note=note)
            rows = [{query.group_by: key, "count": n} for key, n in sorted(counted.value.items(), key=lambda item: -item[1])]
            note = counted.warning or ("" if rows else self._why_nothing(query, where))
            return a.QueryAnswer(rows=rows[: query.limit], matched=sum(counted.value.values()), note=note)
        columns = {"id", *(query.columns or self._columns())}
        if unknown := columns - set(_COLUMNS):
            raise LabError(f"Unknown columns {sorted(unknown)}. Known: {', '.join(_COLUMNS)}.", "unknown_column")
        matching, cursor, warning = self._page(query, where)
        if query.by_number and not query.cursor and not any(query.order_by in e.metrics for e, _ in matching):
            self._check_number(query.order_by)
        rows, apart, texts = [], False, HeldOutTexts()
        for e, comparable in matching:
            marked = query.by_metric and e.metric is not None and not (comparable and IMPORTED not in e.tags)
            row = without_paths(e, self._core.root).model_dump(include=columns)
            row |= {name: cell("experiments", e, name) for name in columns if name not in row}
            row = ({query.order_by: e.metrics.get(query.order_by)} if query.by_number else {}) | row  # a column of that name stays itself
            rows.append(row | ({"comparable": False} if marked else {}))
            apart |= marked
            texts.note(e, comparable)
        notes = [
            warning,
            _NOT_COMPARABLE if apart else "",
            OTHER_TEXT if apart and texts.differ else "",
            "" if rows else self._why_nothing(query, where),
        ]
        return a.QueryAnswer(rows=rows, next_cursor=cursor.write(query) if cursor else None, note=" ".join(note for note in notes if note))

    def _check_number(self, name: str) -> None:
        """Refuse to order by a further number that no experiment has.

        Raises:
            LabError: `unknown_column`, with the numbers that there are.
        """
        try:
            distinct = {cells[0] for cells in self._core.view.cells("experiments", ["metrics"]).value}
        except LakeUnavailable:
            return  # nobody knows: the answer itself warns
        known = sorted({each for text in distinct for each in json.loads(text or "{}")})
        if name not in known:
            listed = ", ".join(one_line(each, 64) for each in known[:_MOST_LISTED]) or "none yet"
            more = f" and {len(known) - _MOST_LISTED} more" if len(known) > _MOST_LISTED else ""
            raise LabError(
                f"No experiment has a number {one_line(name, 64)!r} to order by. Further numbers: {listed}{more}. Or order by {', '.join(ORDERS)}.",
                "unknown_column",
            )

    def _why_nothing(self, query: ExperimentQuery, where: Where) -> str:
        """Say what there is instead, where a query finds nothing."""
        sentences = [unknown_names(self._core.view, "experiments", query.author, query.tag)]
        if query.state is None and not query.cursor:
            others = tuple(each for each in where if each.column != "state")
            if count := self._core.view.count("experiments", others).value.get("", 0):
                sentences.append(f"Cancelled ones that match: {count}. Ask for them with state=['cancelled'].")
        return " ".join(filter(None, sentences))

    def _columns(self) -> tuple[str, ...]:
        settings = self._core.settings
        more = ["reported_bpb"] if settings.trust == "reported" else []
        return (*_ROW_COLUMNS, *more, *(["device"] if len(settings.devices) > 1 else []))

    def _page(self, query: ExperimentQuery, where: Where) -> tuple[list[tuple[Experiment, bool]], Cursor | None, str]:
        """Return a page of rows, each with whether its metric can be compared; where the next page begins; and a warning."""
        cursor = Cursor.read(query.cursor, query) if query.cursor else Cursor(comparable=self._conditions(query))
        rows: list[tuple[Experiment, bool]] = []
        warnings: dict[str, None] = {}
        for part, of_part in enumerate(self._parts(query, where, cursor.comparable)):
            if part < cursor.part:
                continue
            after = cursor.after if part == cursor.part else None
            wanted = query.limit + 1 - len(rows)
            page = self._core.view.select("experiments", Query(of_part, query.ordered_by, bool(query.descending), wanted, after))
            warnings[page.warning] = None
            experiments = [e for e in page.value if isinstance(e, Experiment)]
            rows += [(e, cursor.comparable in ("", e.conditions)) for e in experiments]
            if len(rows) > query.limit:
                last = rows[query.limit - 1][0]
                began = len(rows) - len(experiments) < query.limit  # whether the page's last row is of this part
                following = Cursor.behind(last, query, part, cursor.comparable) if began else Cursor(None, part, cursor.comparable)
                return rows[: query.limit], following, " ".join(filter(None, warnings))
        return rows, None, " ".join(filter(None, warnings))

    def _conditions(self, query: ExperimentQuery) -> str:
        """Return the conditions that rows must share to be ranked together; empty for an order that ranks nothing."""
        return self._status.conditions() if query.by_metric else ""

    def _parts(self, query: ExperimentQuery, where: Where, comparable: str) -> Iterator[Where]:
        """Yield the filters of what is listed first, and of what is listed after it."""
        if not query.by_metric or not comparable:
            yield where
            return
        yield (*where, Condition("conditions", "=", comparable))
        others = set(self._core.view.count("experiments", where, "conditions").value) - {comparable}
        if others:
            yield (*where, Condition("conditions", "in", sorted(others)))

    def records(self, table: Table) -> Iterator[Record]:
        """Yield everything in the log, unflushed and running included.

        Raises:
            LabError: `lake_unavailable`.
        """
        try:
            yield from self._core.view.records(table)
        except LakeUnavailable as error:
            raise LabError(f"The log can't be read whole: {error}", "lake_unavailable") from None

    def import_records(self, table: Table, records: Sequence[Record]) -> int:
        """Add records that were made elsewhere to the log, and to nothing else.

        Returns:
            How many were new.

        Raises:
            LabError: `lake_unavailable`, where it can't be told now which are known.
        """
        known = self._core.view.get(table, [record.id for record in records])
        if known.warning:
            raise LabError(f"Nothing was imported: {known.warning}", "lake_unavailable")
        there = {record.id for record in known.value}
        new = list({record.id: record for record in records if record.id not in there}.values())
        self._core.ledger.import_records(table, new)
        self._core.wake()
        return len(new)

    def _query_sql(self, sql: str, limit: int, caller: str) -> a.QueryAnswer:
        from autoresearch_mcp.server.lake.sql import DERIVED, asks_for_schema, describe, select

        if asks_for_schema(sql):
            return a.QueryAnswer(rows=[], note=describe())
        warnings: dict[str, None] = {}

        def load(table: str, columns: Sequence[str]) -> Iterable[tuple[Any, ...]]:
            read: Read[Any]
            read = self._tables.cells(table, columns) if table in DERIVED else self._core.view.cells(table, columns)  # type: ignore[arg-type]
            if read.warning:
                warnings[read.warning] = None
            rows: Iterable[tuple[Any, ...]] = read.value
            return rows

        try:
            rows, more = select(sql, load, limit, caller, StatePaths(self._core.state).sql)
        except LakeUnavailable as error:
            raise LabError(f"This SQL was not run, because the log can't be read whole: {error}", "lake_unavailable") from None
        notes = [*warnings, *(["There are more rows: raise limit, or add LIMIT and OFFSET to the SQL."] if more else [])]
        return a.QueryAnswer(rows=rows, note=" ".join(notes))
