"""Queries rank by a metric what can be compared, and say of the rest that it can't be."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.mcp.bridge import Bridge
from autoresearch_mcp.server.mcp.tools import LabTools, tools
from autoresearch_mcp.server.models import IMPORTED
from tests.server.measured import MeasuredLab


@pytest.fixture
def measured(measured: MeasuredLab) -> MeasuredLab:
    """A lab with runs under two sets of conditions, and one that was imported."""
    idea = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    measured.measure(idea, [0.9, 0.8, 0.7], conditions="8 seconds")
    measured.measure(measured.lab.champion(), [1.5, None, 1.4], conditions="5 seconds")
    (id,) = measured.measure(idea, [1.3], conditions="5 seconds")
    own = measured.ledger.experiment(id)
    assert own is not None
    foreign = own.model_copy(update={"id": "e-000000000000001", "val_bpb": 0.1, "tags": [IMPORTED]})
    measured.lab.import_records("experiments", [foreign])
    return measured


def pages(measured: MeasuredLab, **filters: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = measured.lab.query_experiments(ExperimentQuery(cursor=cursor, **filters))
        assert ("comparable=false" in page.note) == any("comparable" in row for row in page.rows)
        rows += page.rows
        if (cursor := page.next_cursor) is None:
            return rows


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 50])
def test_a_ranking_lists_what_can_be_compared_first_and_marks_the_rest_however_it_is_paged(measured: MeasuredLab, limit: int) -> None:
    rows = pages(measured, order_by="val_bpb", limit=limit)
    assert [row["val_bpb"] for row in rows] == [0.1, 1.3, 1.4, 1.5, None, 0.7, 0.8, 0.9]
    assert [row.get("comparable", True) for row in rows] == [False, True, True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("tokenizer", "data", "told"), [("t", "theirs", True), ("t", "ours", False), ("another profile's", "theirs", False)]
)
def test_a_ranking_over_labs_with_other_held_out_text_says_how_they_can_share_it(
    measured: MeasuredLab, tokenizer: str, data: str, told: bool
) -> None:
    (row,) = measured.lab.query_experiments(ExperimentQuery(min_val_bpb=1.3, max_val_bpb=1.3)).rows
    own = measured.ledger.experiment(row["id"])
    assert own is not None
    ours = {"id": "e-00000000000000a", "details": {"hashes": {"tokenizer": "t", "data": "ours"}}}
    theirs = {"id": "e-00000000000000b", "details": {"hashes": {"tokenizer": tokenizer, "data": data}}, "conditions": "theirs"}
    measured.lab.import_records("experiments", [own.model_copy(update=ours), own.model_copy(update=theirs)])
    note = measured.lab.query_experiments(ExperimentQuery(order_by="val_bpb")).note
    assert ("secret export" in note) is told


def test_a_ranking_can_be_turned_round_and_filtered(measured: MeasuredLab) -> None:
    rows = pages(measured, order_by="val_bpb", descending=True, state=["finished"], tag=None, min_val_bpb=0.5, limit=2)
    assert [row["val_bpb"] for row in rows] == [1.5, 1.4, 1.3, 0.9, 0.8, 0.7]


def test_other_orders_are_the_newest_first_and_mark_nothing(measured: MeasuredLab) -> None:
    rows = pages(measured, columns=["id", "conditions"], limit=3)
    assert len(rows) == 8 and {row["conditions"] for row in rows} == {"5 seconds", "8 seconds"}
    assert not any("comparable" in row for row in rows)


def test_before_anything_was_measured_a_ranking_is_one_list(make_lab: Callable[..., Path]) -> None:
    empty = MeasuredLab(make_lab("empty"))
    assert pages(empty, order_by="val_bpb") == []
    empty.close()


def test_the_tools_arguments_are_the_labs_filters() -> None:
    declared = inspect.signature(LabTools.query_experiments).parameters
    assert set(declared) - {"self", "context"} == set(ExperimentQuery.model_fields)


def test_a_whole_hypothesis_fits_a_search_and_finds_its_proposal(measured: MeasuredLab) -> None:
    hypothesis = " ".join(f"idea{n}" for n in range(1_000))[:2_000]
    arguments = {tool.name: tool.fn_metadata for tool in tools(Bridge(measured.lab))}
    arguments["propose_patch"].validate_arguments({"hypothesis": hypothesis})
    arguments["search_memory"].validate_arguments({"query": hypothesis})
    edits = [{"path": "train.py", "search": "DEPTH = ", "replace": "DEPTH = 5 + "}]
    commit = measured.lab.propose_patch(hypothesis, "ada", edits=edits).commit
    assert [each.commit for each in measured.lab.search_memory(hypothesis).proposed] == [commit]
