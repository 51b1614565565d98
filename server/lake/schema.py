"""The lake's tables: typed columns to filter and order by, and the whole record as JSON text, which has the last word.

The schema is written for two engines and for agents' SQL. It gives up native nulls and lists: Deeplake 4.7.4 reads
nullable columns a row at a time (2 s for 10,000 rows) and fails on some of them, so a real column stores -1 where there
is no value (costs and times are never negative; a negative metric is stored far below), and a list is stored as a JSON array in a text column.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake.base import Condition, Operator, Query
from autoresearch_mcp.server.models import Experiment, Memory, Promotion, Record, Table
from autoresearch_mcp.server.search.text import terms
from autoresearch_mcp.server.search.vectors import COLUMN as EMBEDDING

SCHEMA_VERSION = 5  # 2: started_at, steps and memory_mb of experiments; 3: the meaning of memories; 4: their circumstances; 5: metrics
VECTORS_SINCE = 3
NO_VALUE = -1.0
_BELOW = 2.0**600  # times which negative metrics are stored: exact, in order, and never NO_VALUE
_SMALLEST, _LARGEST = 1e-150, 1e100  # of them
RECORD = "record"
NUMBER = "metrics."  # and a further number's name: what rows can be ordered by, though no store has a column of it

_OPERATORS: dict[str, tuple[Operator, ...]] = {
    "text": ("=", "in", "contains", ">=", "<="),
    "integer": ("=", "in", ">=", "<="),
    "real": ("=", "in", ">=", "<="),
    "list": ("has", "has any"),
}


@dataclass(frozen=True)
class Column:
    """One typed column. `source` is the record's attribute of the same name unless it is given."""

    name: str
    type: Literal["text", "integer", "real", "list", "bytes"]
    meaning: str
    nullable: bool = False
    signed: bool = False  # may be negative, although it is nullable
    source: Callable[[Any], Any] | None = None
    hidden: bool = False  # serves the store; nobody filters by it
    long: bool = False  # stays in the store: too much to hold in memory for all rows

    def cell(self, record: Record) -> Any:
        """Return the value that conditions and orders see: str, int, float or None, or a tuple of str.

        NUL becomes U+FFFD (PostgreSQL refuses it); a number that is not finite becomes None in a nullable column, and so does a
        negative one, unless the column is signed.
        """
        value = self.source(record) if self.source else getattr(record, self.name)
        match self.type:
            case "text":
                return value.replace("\0", "�")
            case "list":
                return tuple(item.replace("\0", "�") for item in value)
            case "real":
                fits = value is not None and math.isfinite(value) and (value >= 0 or not self.nullable or self._holds_negative(value))
                return float(value) if fits else None
            case _:
                return value

    def store(self, cell: Any) -> str | int | float | bytes:
        """Return what the store's column holds for a cell."""
        if self.type == "list":
            return json.dumps(cell, ensure_ascii=False, separators=(",", ":"))
        if self.signed and cell is not None and cell < 0:
            return float(cell * _BELOW)
        return NO_VALUE if cell is None else cell

    def load(self, stored: Sequence[Any]) -> list[Any]:
        """Return the cells of a slice of the store's column."""
        if self.type == "list":
            known = {text: tuple(json.loads(text)) for text in set(stored)}
            return [known[text] for text in stored]
        if self.type == "text":
            return [text or "" for text in stored]  # Deeplake gives empty text back as None
        if self.type == "bytes":
            return [bytes(data) if data else b"" for data in stored]
        values = stored.tolist() if hasattr(stored, "tolist") else list(stored)
        if not self.nullable:
            return values
        scale = _BELOW if self.signed else 1.0
        return [value if value > NO_VALUE else None if value == NO_VALUE else value / scale for value in values]

    def _holds_negative(self, value: float) -> bool:
        return self.signed and _SMALLEST < -value < _LARGEST


def _number(value: Any) -> float | None:
    """Return a number from a result that some launcher wrote, or None for anything else that stands there."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else None


def _table(*columns: Column) -> dict[str, Column]:
    return {column.name: column for column in columns}


TABLES: dict[Table, dict[str, Column]] = {
    "experiments": _table(
        Column("id", "text", "made by the lab; sorts by time"),
        Column("version", "integer", "the newest version of an id is the row"),
        Column("commit", "text", "what was trained"),
        Column("base", "text", "the commit that the proposal changed"),
        Column("author", "text", "who launched it"),
        Column("state", "text", "finished, crashed, timed_out, stopped_early or cancelled"),
        Column("device", "text", "kind of device, such as cpu or h100"),
        Column("conditions", "text", "hash of all that must be equal for two metrics to be compared"),
        Column("seed", "integer", "of the random numbers"),
        Column("val_bpb", "real", "validation bits per byte, measured by the scorer", nullable=True, signed=True),
        Column("reported_bpb", "real", "what the training code printed; never trusted", nullable=True, signed=True),
        Column(
            "metrics",
            "text",
            "further numbers as JSON, for json_extract(metrics, '$.\"NAME\"'): the code's claims, and peak_memory_mb and train_s, which are "
            "measured",
            source=lambda record: json.dumps(record.metrics, ensure_ascii=False),
        ),
        Column("cost_s", "real", "device seconds used"),
        Column("created_at", "real", "seconds since the epoch, UTC"),
        Column("started_at", "real", "seconds since the epoch, UTC", nullable=True),
        Column("finished_at", "real", "seconds since the epoch, UTC", nullable=True),
        Column(
            "steps",
            "real",
            "optimizer steps, as the training code reports them",
            nullable=True,
            source=lambda record: _number(record.details.get("steps") if record.steps is None else record.steps),
        ),
        Column("cpu_share", "real", "CPU seconds used / (wall seconds * threads), by the launcher", nullable=True),
        Column("window_s", "real", "wall seconds from start() to submit(), by the launcher", nullable=True),
        Column("pressure", "real", "share of them in which something on the machine waited for a core", nullable=True),
        Column("host", "text", "tells the machines apart"),
        Column("device_id", "text", "of the GPU, as its driver says"),
        Column("fault", "text", "whose a failure was: code, scorer, machine or cancel", source=lambda record: record.fault or ""),
        Column("cancelled_by", "text", "who asked to cancel it"),
        Column(
            "memory_mb",
            "real",
            "peak memory of the training",
            nullable=True,
            source=lambda record: _number(record.details.get("peak_memory_mb")),
        ),
        Column(
            "failure",
            "text",
            "class of the failure, empty without one",
            source=lambda record: record.failure.kind if record.failure else "",
        ),
        Column("tags", "list", "given at the launch"),
        Column("hypothesis", "text", "why it was tried, in the agent's words"),
    ),
    "memories": _table(
        Column("id", "text", "made by the lab; sorts by time"),
        Column("version", "integer", "the newest version of an id is the row"),
        Column("kind", "text", "finding, failure, idea or insight"),
        Column("author", "text", "who wrote it"),
        Column("text", "text", "the note", long=True),
        Column(
            "terms", "text", "the note's search terms, indexed for BM25", source=lambda record: " ".join(terms(record.text)), hidden=True
        ),
        Column(EMBEDDING, "bytes", "the note's vector, put in by the store", source=lambda record: b"", hidden=True),
        Column("tags", "list", "given by the author"),
        Column("experiments", "list", "ids it speaks of"),
        Column("commits", "list", "commits it speaks of"),
        Column("supersedes", "list", "memories it replaces"),
        Column("contradicts", "list", "memories it disagrees with"),
        Column("created_at", "real", "seconds since the epoch, UTC"),
    ),
    "promotions": _table(
        Column("id", "text", "made by the lab; sorts by time"),
        Column("version", "integer", "the newest version of an id is the row"),
        Column("commit", "text", "the new champion"),
        Column("previous", "text", "the champion before"),
        Column("author", "text", "who asked for it"),
        Column("approved_by", "text", "`policy`, or who said yes"),
        Column("created_at", "real", "seconds since the epoch, UTC"),
    ),
}

_MODELS: dict[Table, type[Experiment] | type[Memory] | type[Promotion]] = {
    "experiments": Experiment,
    "memories": Memory,
    "promotions": Promotion,
}


def cells(table: Table, record: Record) -> dict[str, Any]:
    """Return the record's typed columns as conditions, orders and cursors see them."""
    return {name: column.cell(record) for name, column in TABLES[table].items()}


def cell(table: Table, record: Record, column: str) -> Any:
    """Return one of `cells`, or a further number. With the record's id it is the `after` of the next page."""
    return _column(table, column, hidden=True).cell(record)


def number_of(column: str) -> str | None:
    """Return the name of the further number that an order by `NUMBER` + name is by; None for a column of the table."""
    return column.removeprefix(NUMBER) if column.startswith(NUMBER) else None


def numbers(stored: Sequence[str], name: str) -> list[float | None]:
    """Return a further number out of cells of the column `metrics`, as `cell` gives it."""
    known = {text: json.loads(text or "{}").get(name) for text in set(stored)}
    cells = {text: float(value) if value is not None and math.isfinite(value) else None for text, value in known.items()}
    return [cells[text] for text in stored]


def row(table: Table, record: Record) -> dict[str, str | int | float | bytes]:
    """Return the record as the store keeps it: its columns, and itself as JSON text."""
    stored = {name: column.store(column.cell(record)) for name, column in TABLES[table].items()}
    return stored | {RECORD: record.model_dump_json()}


def parse(table: Table, text: str) -> Record:
    """Read a record from its JSON text.

    Raises:
        ValueError: it is not one of this table.
    """
    return _MODELS[table].model_validate_json(text)


def predicates(table: Table, where: Sequence[Condition]) -> list[tuple[str, Callable[[Any], bool]]]:
    """Return the conditions as tests of cells, by column.

    Raises:
        LabError: `bad_query`, for an unknown column, an operator that its type doesn't have, or a value of another type.
    """
    return [(condition.column, _checked(table, condition).predicate()) for condition in where]


def check_order(table: Table, query: Query) -> None:
    """Refuse an order that no store can give.

    Raises:
        LabError: `bad_query`.
    """
    if _column(table, query.order_by).type == "list":
        raise LabError(f"{table} can't be ordered by {query.order_by}, which is a list. Order by another column.", "bad_query")
    if query.limit < 1:
        raise LabError(f"A page holds at least one row, not {query.limit}.", "bad_query")
    if query.after is not None and query.after[0] is not None:
        _checked(table, Condition(query.order_by, "=", query.after[0]))


def check_group(table: Table, group_by: str) -> None:
    """Refuse to count by a column whose values don't make groups.

    Raises:
        LabError: `bad_query`.
    """
    if _column(table, group_by).type not in ("text", "integer"):
        raise LabError(f"{table} can't be counted by {group_by}. Count by a column of text or whole numbers.", "bad_query")


def _column(table: Table, name: str, hidden: bool = False) -> Column:
    if table == "experiments" and (number := number_of(name)) is not None:
        return Column(name, "real", "a further number, or None", source=lambda record: record.metrics.get(number))
    column = TABLES[table].get(name)
    if column is None or (column.hidden and not hidden):
        names = ", ".join(name for name, column in TABLES[table].items() if not column.hidden)
        raise LabError(f"{table} has no column {name!r:.80}. Its columns are {names}.", "bad_query")
    return column


def _checked(table: Table, condition: Condition) -> Condition:
    column = _column(table, condition.column)
    if condition.op not in _OPERATORS[column.type]:
        allowed = ", ".join(_OPERATORS[column.type])
        raise LabError(f"{condition.column} is a {column.type} column and knows {allowed}, not {condition.op!r:.20}.", "bad_query")
    values = condition.value if condition.op in ("in", "has any") else (condition.value,)
    if isinstance(values, str) or not all(_fits(column, value, condition.op) for value in values):
        raise LabError(
            f"{condition.column} {condition.op} {condition.value!r:.80}: the value is not of the column's type, {column.type}.", "bad_query"
        )
    return condition


def _fits(column: Column, value: Any, op: Operator) -> bool:
    if value is None:
        return column.nullable and op in ("=", "in")
    if column.type in ("text", "list"):
        return isinstance(value, str)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
