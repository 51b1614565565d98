"""A record survives its row, and a row holds nothing that breaks a store."""

import json
import math
from typing import Any, get_args

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake.base import Condition, Query
from autoresearch_mcp.server.lake.schema import RECORD, TABLES, cells, check_group, check_order, parse, predicates, row
from autoresearch_mcp.server.models import Table
from tests.server.lake.records import HOSTILE, experiment, memory, promotion


def test_every_table_has_columns_that_say_what_they_mean() -> None:
    assert set(TABLES) == set(get_args(Table))
    assert all(column.meaning for columns in TABLES.values() for column in columns.values())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_record_survives_its_row(text: str) -> None:
    for table, record in (
        ("experiments", experiment(1, hypothesis=text, author=text, tags=[text, "b"], details={"x": [1, None, text]}, curve=[(0.5, 3.0)])),
        ("memories", memory(1, text, tags=[text])),
        ("promotions", promotion(1)),
    ):
        stored = row(table, record)
        assert parse(table, str(stored[RECORD])) == record
        loaded = {name: column.load([stored[name]])[0] for name, column in TABLES[table].items()}
        assert loaded == cells(table, record)


def test_a_run_that_diverged_survives_as_strict_json_and_finite_columns() -> None:
    record = experiment(1, val_bpb=math.nan, reported_bpb=-math.inf, curve=[(0.1, math.nan), (0.2, math.inf)], details={"loss": math.nan})
    stored = row("experiments", record)
    assert all(math.isfinite(value) for value in stored.values() if isinstance(value, float))
    assert cells("experiments", record)["val_bpb"] is None
    json.loads(str(stored[RECORD]), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    back = parse("experiments", str(stored[RECORD]))
    assert math.isnan(back.curve[0][1]) and back.curve[1] == (0.2, math.inf)


@pytest.mark.parametrize(
    "condition",
    [
        Condition("nonsense", "=", 1),
        Condition("record", "contains", "x"),
        Condition("tags", "=", "a"),
        Condition("val_bpb", "contains", "1"),
        Condition("val_bpb", ">=", "1"),
        Condition("val_bpb", ">=", math.nan),
        Condition("val_bpb", ">=", None),
        Condition("seed", "=", True),
        Condition("state", "in", "finished"),
        Condition("state", "in", [1]),
        Condition("author", "contains", None),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(condition: Condition) -> None:
    with pytest.raises(LabError) as refusal:
        predicates("experiments", [condition])
    assert refusal.value.code == "bad_query" and condition.column in str(refusal.value)


@pytest.mark.parametrize(
    "query",
    [Query(order_by="tags"), Query(order_by="nonsense"), Query(limit=0), Query(after=("yesterday", "e-1")), Query(after=(math.inf, "e-1"))],
)
def test_an_order_or_a_cursor_that_makes_no_sense_is_refused(query: Query) -> None:
    with pytest.raises(LabError):
        check_order("experiments", query)


@pytest.mark.parametrize("column", ["val_bpb", "tags", "nonsense"])
def test_only_columns_with_groups_are_counted_by(column: Any) -> None:
    with pytest.raises(LabError):
        check_group("experiments", column)
