"""What can be asked of the log of experiments: the one model of filters for the tool, the lab and the lake."""

import base64
import hashlib
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.moments import Moment, unix
from autoresearch_mcp.server.lake.base import Condition, Operator
from autoresearch_mcp.server.lake.schema import NUMBER, cell
from autoresearch_mcp.server.models import ACTIVE_STATES, TERMINAL_STATES, Experiment, ExperimentState, Model
from autoresearch_mcp.server.settings import MetricSection

_BEST_FIRST = ("val_bpb", "reported_bpb")  # metrics: see `best_first`
ORDERS = ("created_at", "finished_at", *_BEST_FIRST, "cost_s")
COMMIT = r"^(champion|[0-9a-f]{7,64})$"
Commit = Annotated[str, Field(pattern=COMMIT, description="hash, or champion")]
TAG = r"^[\w.:/+-]+$"
TAG_FORM = "letters, digits, _.:/+-"
Tag = Annotated[str, Field(pattern=TAG, max_length=64, description=TAG_FORM)]
SQL = 'instead: one SELECT; "schema" lists tables and columns'
Where = tuple[Condition, ...]
SHOWN: list[ExperimentState] = ["queued", *ACTIVE_STATES, *(state for state in TERMINAL_STATES if state != "cancelled")]


def _order(given: Any) -> Any:
    """Return a column's name in its own spelling; other names stand for further numbers, and stay as they are."""
    plain = given.strip().lower() if isinstance(given, str) else given
    return plain if plain in ORDERS else given


Order = Annotated[
    str, BeforeValidator(_order), Field(min_length=1, max_length=200, description=f"{', '.join(ORDERS)}, or a name in metrics")
]


class ExperimentQuery(Model):
    """Filters over experiments, which combine with and; their order, page and columns. Or one SELECT instead."""

    state: Annotated[list[ExperimentState] | None, Field(description="default: all but cancelled")] = None
    commit: Commit | None = None
    author: Annotated[str | None, Field(max_length=64)] = None
    tag: Tag | None = None
    min_val_bpb: float | None = None
    max_val_bpb: float | None = None
    text: Annotated[str | None, Field(max_length=2000, description="part of the hypothesis")] = None
    since: Annotated[Moment | None, Field(description="10m (ago), or ISO")] = None
    until: Moment | None = None
    order_by: Order = "created_at"
    descending: Annotated[bool | None, Field(description="default: best or newest first")] = None
    columns: Annotated[list[str] | None, Field(max_length=30, description="default: the main ones")] = None
    group_by: Annotated[Literal["state", "commit", "author", "device", "failure"] | None, Field(description="counts, not rows, by")] = None
    limit: Annotated[int, Field(ge=1, le=200)] = 20
    cursor: Annotated[str | None, Field(max_length=500, description="the last next_cursor")] = None
    sql: Annotated[str | None, Field(max_length=4000, description=SQL)] = None

    @property
    def by_metric(self) -> bool:
        """Whether rows are ranked by a metric, which means something under equal conditions only."""
        return self.order_by in _BEST_FIRST or self.by_number

    @property
    def by_number(self) -> bool:
        """Whether rows are ranked by a further number, which `order_by` names."""
        return self.order_by not in ORDERS

    @property
    def ordered_by(self) -> str:
        """The lake's name of what rows are ordered by."""
        return NUMBER + self.order_by if self.by_number else self.order_by

    def best_first(self, metric: MetricSection) -> "ExperimentQuery":
        """Return this query with an order, where none was asked for: of a metric the best first, else the newest.

        Args:
            metric: of the lab. A further number has the goal of its guard; the greatest comes first without one.
        """
        if self.descending is not None:
            return self
        goal = metric.better if not self.by_number else next((each.better for each in metric.guard if each.name == self.order_by), "max")
        return self.model_copy(update={"descending": not self.by_metric or goal == "max"})

    def where(self, commit: str | None) -> Where:
        """Return the filters as conditions for the lake; `commit` is the full id of the query's commit."""
        return conditions(
            ("state", "in", self.state or (None if self.group_by == "state" else SHOWN)),
            ("commit", "=", commit),
            ("author", "=", self.author),
            ("tags", "has", self.tag),
            ("val_bpb", ">=", self.min_val_bpb),
            ("val_bpb", "<=", self.max_val_bpb),
            ("hypothesis", "contains", self.text),
            ("created_at", ">=", None if self.since is None else unix(self.since)),
            ("created_at", "<=", None if self.until is None else unix(self.until)),
        )


@dataclass(frozen=True)
class Cursor:
    """Where the next page begins.

    Attributes:
        after: the order value and id of the last row of the page before; None at a part's beginning.
        part: 0 while rows that can be compared are listed, 1 for the rest.
        comparable: the conditions that were compared when the first page was read.
    """

    after: tuple[Any, str] | None = None
    part: int = 0
    comparable: str = ""

    def write(self, query: ExperimentQuery) -> str:
        """Return the cursor as text, which fits this query's filters and order only."""
        values = [_mark(query), self.part, self.comparable, *(self.after or (None, ""))]
        return base64.urlsafe_b64encode(json.dumps(values).encode()).decode()

    @classmethod
    def read(cls, text: str, query: ExperimentQuery) -> "Cursor":
        """Return the cursor that was written as `text`.

        Raises:
            LabError: `bad_cursor`, if it belongs to other filters or another order, or is damaged.
        """
        try:
            mark, part, comparable, value, id = json.loads(base64.urlsafe_b64decode(text.encode()))
        except (ValueError, TypeError, RecursionError):  # TypeError: JSON, but no list
            mark = part = comparable = value = id = None
        fits = mark == _mark(query) and part in (0, 1) and (value is None or _is_number(value))
        if not fits or not isinstance(comparable, str) or not isinstance(id, str):
            raise LabError("This cursor belongs to another query. Repeat the query without a cursor to start again.", "bad_cursor")
        return cls((value, id) if id else None, part, comparable)

    @classmethod
    def behind(cls, last: Experiment, query: ExperimentQuery, part: int, comparable: str) -> "Cursor":
        """Return the cursor that continues after this row."""
        return cls((cell("experiments", last, query.ordered_by), last.id), part, comparable)


def _mark(query: ExperimentQuery) -> str:
    """Return what differs between queries whose rows or order differ. Pages may differ in length and columns."""
    filters = query.model_dump(mode="json", exclude={"columns", "limit", "cursor"})
    return hashlib.sha256(json.dumps(filters, sort_keys=True).encode()).hexdigest()[:12]


def _is_number(value: Any) -> bool:
    """Return whether a value is of the type of all columns that rows are ordered by."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def conditions(*tests: tuple[str, Operator, Any]) -> Where:
    """Return those tests that were asked for: their value is not None."""
    return tuple(Condition(column, op, value) for column, op, value in tests if value is not None)
