"""The shared log of a lab: querying it, reading it whole, adding to it what was made elsewhere, and drawing it."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from autoresearch_mcp.server import answers as a
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.core import LabCore
from autoresearch_mcp.server.lab.progress import Campaign
from autoresearch_mcp.server.lab.status import Overview
from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Operator, Query
from autoresearch_mcp.server.models import Experiment, Record, Table

_ROW_COLUMNS = ("id", "commit", "state", "val_bpb", "author", "hypothesis", "seed", "created_at")


class History:
    """The use cases that read the log as a whole."""

    def __init__(self, core: LabCore, overview: Overview) -> None:
        self._core = core
        self._overview = overview

    def query_experiments(
        self,
        state: list[str] | None = None,
        commit: str | None = None,
        author: str | None = None,
        tag: str | None = None,
        min_val_bpb: float | None = None,
        max_val_bpb: float | None = None,
        text: str | None = None,
        since: float | None = None,
        until: float | None = None,
        order_by: str = "created_at",
        descending: bool = True,
        columns: list[str] | None = None,
        group_by: Literal["state", "commit", "author", "device", "failure"] | None = None,
        limit: int = 20,
        cursor: str | None = None,
        sql: str | None = None,
    ) -> a.QueryAnswer:
        """Return experiments that match all filters, in pages; with `group_by`, how many match by group; with `sql`, its rows.

        Raises:
            LabError: `unknown_column`, `bad_cursor`, `bad_query`, `bad_sql`, or the repository's own.
        """
        if sql is not None:
            return self._query_sql(sql, limit)
        wanted = conditions(
            ("state", "in", state),
            ("author", "=", author),
            ("tags", "has", tag),
            ("val_bpb", ">=", min_val_bpb),
            ("val_bpb", "<=", max_val_bpb),
            ("hypothesis", "contains", text),
            ("created_at", ">=", since),
            ("created_at", "<=", until),
        )
        if commit is not None:
            wanted = (*wanted, Condition("commit", "=", self._core.commit(commit)))
        if group_by:
            counted = self._core.view.count("experiments", wanted, group_by)
            rows = [{group_by: key, "count": n} for key, n in sorted(counted.value.items(), key=lambda item: -item[1])]
            return a.QueryAnswer(rows=rows[:limit], matched=sum(counted.value.values()), note=counted.warning)
        settings = self._core.settings
        after = _read_cursor(cursor, order_by, descending) if cursor else None
        page = self._core.view.select("experiments", Query(wanted, order_by, descending, limit + 1, after))
        matching = [e for e in page.value if isinstance(e, Experiment)]
        more = len(matching) > limit
        more_columns = ["reported_bpb"] if settings.training.metric == "reported" else []
        more_columns += ["device"] if len(settings.devices) > 1 else []
        names = tuple(columns or (*_ROW_COLUMNS, *more_columns))
        unknown = set(names) - set(Experiment.model_fields)
        if unknown:
            raise LabError(f"Unknown columns {sorted(unknown)}. Known: {', '.join(Experiment.model_fields)}.", "unknown_column")
        return a.QueryAnswer(
            rows=[e.model_dump(include={"id", *names}) for e in matching[:limit]],
            next_cursor=_write_cursor(matching[limit - 1], order_by, descending) if more else None,
            note=page.warning,
        )

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

    def plot_progress(self) -> a.ProgressPicture:
        """Draw every experiment as a point and the champion's metric as a line.

        Raises:
            LabError: `missing_package`, where matplotlib is not installed.
        """
        from autoresearch_mcp.server.lab.progress_plot import draw

        settings, conditions = self._core.settings, self._overview.conditions()
        campaign = Campaign(
            experiments=self._all_experiments(),
            promotions=self._core.ledger.promotions(),
            title=settings.lab.name,
            champion=self._overview.summary(self._core.repo.champion(), conditions),
            conditions=conditions,
            reported=settings.training.reported_metric,
            reference=settings.reference,
        )
        try:
            return draw(campaign)
        except ModuleNotFoundError as error:
            raise LabError(
                f"The picture needs the package {error.name}, which is not installed here: pip install {error.name}. "
                "The numbers are in get_status and query_experiments.",
                "missing_package",
            ) from None

    def _query_sql(self, sql: str, limit: int) -> a.QueryAnswer:
        from autoresearch_mcp.server.lake.sql import select

        warnings: dict[str, None] = {}

        def load(table: Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
            read = self._core.view.cells(table, columns)
            if read.warning:
                warnings[read.warning] = None
            return read.value

        rows, more = select(sql, load, limit)
        notes = [*warnings, *(["There are more rows: raise limit, or add LIMIT and OFFSET to the SQL."] if more else [])]
        return a.QueryAnswer(rows=rows, note=" ".join(notes))

    def _all_experiments(self) -> list[Experiment]:
        experiments: list[Record] = []
        after: tuple[Any, str] | None = None
        while True:
            page = self._core.view.select("experiments", Query(order_by="created_at", descending=False, limit=1000, after=after)).value
            experiments += page
            if len(page) < 1000:
                return [e for e in experiments if isinstance(e, Experiment)]
            after = (page[-1].created_at, page[-1].id)


def conditions(*tests: tuple[str, Operator, Any]) -> tuple[Condition, ...]:
    """Return those tests that were asked for: their value is not None."""
    return tuple(Condition(column, op, value) for column, op, value in tests if value is not None)


def _write_cursor(last: Experiment, order_by: str, descending: bool) -> str:
    return base64.urlsafe_b64encode(json.dumps([order_by, descending, getattr(last, order_by), last.id]).encode()).decode()


def _read_cursor(cursor: str, order_by: str, descending: bool) -> tuple[Any, str]:
    try:
        column, direction, value, id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError, RecursionError):  # TypeError: JSON, but no list
        column = direction = value = id = None
    if (column, direction) != (order_by, descending) or not isinstance(id, str):
        raise LabError("This cursor belongs to another query. Repeat the query without a cursor to start again.", "bad_cursor")
    return value, id
