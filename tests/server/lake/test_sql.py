"""SQL over the lab's tables: one SELECT, answered exactly for every store, and everything else refused with a reason."""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake import sql
from autoresearch_mcp.server.lake.base import Lake
from autoresearch_mcp.server.lake.schema import TABLES, cells
from autoresearch_mcp.server.lake.view import MergedView
from autoresearch_mcp.server.models import Record, Table
from tests.server.lake.records import experiment, memory, random_experiment


def over(*records: Record) -> Callable[[Table, Sequence[str]], list[tuple[Any, ...]]]:
    def load(table: Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        mine = [record for record in records if record.id.startswith(table[0])]
        return [tuple(cells(table, record)[column] for column in columns) for record in mine]

    return load


def rows(text: str, *records: Record, limit: int = 100) -> list[dict[str, Any]]:
    return sql.select(text, over(*records), limit)[0]


def test_sql_counts_unflushed_rows_and_newest_versions_in_both_stores(lake: Lake) -> None:
    rng = random.Random(5)
    records = [random_experiment(rng, n) for n in range(40)]
    stale = [record.model_copy(update={"version": 1, "state": "cancelled"}) for record in records[10:20]]
    lake.append("experiments", [*records[:10], *stale, *records[20:30]])
    view = MergedView(lake, lambda table: list(records[5:20] + records[30:]) if table == "experiments" else [])
    answer, _ = sql.select("SELECT state, count(*) AS n FROM experiments GROUP BY state", lambda *wanted: view.cells(*wanted).value, 10)
    assert {row["state"]: row["n"] for row in answer} == Counter(record.state for record in records)
    best, _ = sql.select(
        "SELECT id FROM experiments WHERE val_bpb IS NOT NULL ORDER BY val_bpb, id LIMIT 3", lambda *wanted: view.cells(*wanted).value, 10
    )
    known = sorted((record.val_bpb, record.id) for record in records if record.val_bpb is not None)
    assert [row["id"] for row in best] == [id for _, id in known[:3]]


def test_joins_windows_and_lists_work() -> None:
    data = [experiment(n, tags=["a", "b"][: n % 3], val_bpb=1 + n / 10) for n in range(9)] + [memory(1, "note", experiments=["e-000002"])]
    ranked = "WITH r AS (SELECT id, rank() OVER (ORDER BY val_bpb) AS place FROM experiments) SELECT id FROM r WHERE place = 2"
    assert rows(ranked, *data) == [{"id": "e-000001"}]
    assert rows("SELECT value, count(*) AS n FROM experiments, json_each(tags) GROUP BY value", *data) == [
        {"value": "a", "n": 6},
        {"value": "b", "n": 3},
    ]
    joined = "SELECT m.text, e.commit FROM memories m, json_each(m.experiments) x JOIN experiments e ON e.id = x.value"
    assert rows(joined, *data) == [{"text": "note", "commit": f"{2:040d}"}]
    assert rows("SELECT commit, COUNT(*) n FROM experiments GROUP BY commit ORDER BY n DESC LIMIT 1", *data)[0]["n"] == 2
    assert set(rows("SELECT * FROM memories", *data)[0]) == {name for name, column in TABLES["memories"].items() if not column.hidden}
    assert rows("SELECT id, id FROM memories", *data) == [{"id": "m-000001", "id_2": "m-000001"}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("DELETE FROM experiments", "DELETE"),
        ("INSERT INTO memories VALUES (1)", "INSERT"),
        ("WITH x AS (DELETE FROM experiments RETURNING *) SELECT * FROM x", "DELETE"),
        ("SELECT 1; DROP TABLE experiments", "2 statements"),
        ("", "0 statements"),
        ("PRAGMA table_info(experiments)", "PRAGMA"),
        ("ATTACH '/etc/passwd' AS x", "ATTACH"),
        ("SELECT * FROM sqlite_master", "no table sqlite_master"),
        ("SELECT * FROM main.experiments", "no table"),
        ("SELECT * FROM pragma_table_info('experiments')", "not authorized"),
        ("SELECT load_extension('x')", "not authorized"),
        ("SELECT readfile('/etc/passwd')", "no such function"),
        ("SELECT nosuch FROM experiments", "no such column"),
        ("SELECT terms FROM memories", "no such column"),
        ("SELECT randomblob(100000000)", "too big"),
        ("SELECT FROM WHERE", "parsed"),
        ("SELECT " + "(" * 900 + "1" + ")" * 900, "nested too deeply"),
        ("WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT * FROM x", "recursive"),
        ("WITH x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT count(*) FROM x", "not authorized"),
    ],
)
def test_what_is_not_one_select_over_the_tables_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(LabError, match=re.escape(reason)) as refusal:
        rows(text, experiment(1))
    assert refusal.value.code == "bad_sql" and "lab://schema" in str(refusal.value)


def test_a_query_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "LIMIT_S", 0.1)
    many = ", ".join(f"experiments e{n}" for n in range(9))
    with pytest.raises(LabError, match="took longer"):
        rows(f"SELECT count(*) FROM {many}", *(experiment(n) for n in range(30)))


def test_an_answer_has_a_size() -> None:
    data = [memory(n, "x" * 5_000) for n in range(50)]
    answer, more = sql.select("SELECT id, text FROM memories ORDER BY id", over(*data), 50)
    assert more and len(answer) < 50 and all(len(row["text"]) == 2_000 for row in answer)
    answer, more = sql.select("SELECT id FROM memories", over(*data), 7)
    assert more and len(answer) == 7
    assert sql.select("SELECT id FROM memories LIMIT 7", over(*data), 7)[1] is False


def test_long_names_of_columns_count_too() -> None:
    answer, more = sql.select(
        f'SELECT id AS "{"x" * 3_000}", id AS "{"y" * 3_000}" FROM memories', over(*(memory(n, "note") for n in range(300))), 300
    )
    assert more and sum(len(name) for row in answer for name in row) <= sql.MOST_TEXT


def test_numbers_that_json_lacks_are_null() -> None:
    assert rows("SELECT 9e999 AS much, -9e999 AS little, 1.5 AS n FROM memories", memory(1, "note")) == [
        {"much": None, "little": None, "n": 1.5}
    ]


def test_a_row_that_no_answer_can_hold_is_refused() -> None:
    wide = ", ".join(f"hex(zeroblob(1000)) AS c{n}" for n in range(40))
    with pytest.raises(LabError, match="select fewer columns"):
        rows(f"SELECT {wide} FROM memories", memory(1, "note"))


def test_errors_list_the_columns_of_the_tables_that_the_statement_names() -> None:
    with pytest.raises(LabError) as refusal:
        rows("SELECT validation_loss FROM experiments", experiment(1))
    assert "val_bpb" in str(refusal.value) and "supersedes" not in str(refusal.value)
    with pytest.raises(LabError) as refusal:
        rows("SELECT m.note, e.id FROM memories m JOIN experiments e", experiment(1), memory(1, "note"))
    assert "supersedes" in str(refusal.value) and "val_bpb" in str(refusal.value)


def test_the_word_schema_is_told_from_a_statement() -> None:
    assert all(map(sql.asks_for_schema, ["schema", " Schema; ", ".schema"]))
    assert not sql.asks_for_schema("SELECT 1 AS schema")


def test_the_schema_names_every_column() -> None:
    text = sql.describe()
    for table, columns in TABLES.items():
        assert f"\n{table}:" in text
        assert all((f"\n  {column.name} " in text) is not column.hidden for column in columns.values())
