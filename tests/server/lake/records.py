"""Records to fill lakes with, and what every store must answer: a query by brute force."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from autoresearch_mcp.server.lake.base import Condition, Query
from autoresearch_mcp.server.lake.schema import cells
from autoresearch_mcp.server.models import Experiment, Failure, Memory, Promotion, Record, Table

HOSTILE = [
    "it's",
    "'; DROP TABLE experiments; --",
    '"quoted" \\ back\\slash',
    "100% _under_",
    "new\nline\ttab",
    "nul\0byte",
    "ünïcode 日本語 \U0001f600",
    "{'json': [1]}",
    '","',
    "",
]


def experiment(n: int, **changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "id": f"e-{n:06d}",
        "commit": f"{n % 7:040d}",
        "base": "0" * 40,
        "author": "ada",
        "hypothesis": f"idea {n}",
        "seed": n,
        "state": "finished",
        "device": "cpu",
        "conditions": "c",
        "created_at": 1e9 + n,
        "finished_at": 1e9 + n + 60,
        "reserved_s": 60.0,
        "val_bpb": 1.5,
        "version": 4,
    }
    return Experiment(**values | changes)


def memory(n: int, text: str, **changes: Any) -> Memory:
    return Memory(**{"id": f"m-{n:06d}", "kind": "finding", "text": text, "author": "ada", "created_at": 1e9 + n} | changes)


def promotion(n: int) -> Promotion:
    return Promotion(
        id=f"p-{n}", commit="c" * 40, previous="0" * 40, author="ada", approved_by="policy", verdict={"p": 0.01}, created_at=1e9 + n
    )


def random_experiment(rng: random.Random, n: int) -> Experiment:
    """Few distinct values, so that ties, nulls and matches are many."""
    state = rng.choice(["finished", "finished", "crashed", "cancelled"])
    return experiment(
        n,
        author=rng.choice(["ada", "Bob", *HOSTILE]),
        hypothesis=" ".join(rng.choices(["Muon", "lr", "warm_up", *HOSTILE], k=3)),
        tags=rng.sample(["a", "b", *HOSTILE], k=rng.randrange(3)),
        state=state,
        created_at=1e9 + rng.randrange(10),
        finished_at=rng.choice([None, 1e9 + rng.randrange(10)]),
        val_bpb=rng.choice([None, 1.25, 1.5, rng.random() + 1]) if state == "finished" else None,
        failure=Failure(kind="oom", message="out of memory") if state == "crashed" else None,
        cost_s=float(rng.randrange(5)),
        metrics=rng.choice([{}, {"train_s": -1.5}, {"train_s": 2.0, "other": 1.0}, {"train_s": rng.random()}]),
    )


def random_query(rng: random.Random) -> Query:
    conditions = [
        Condition("state", "in", rng.sample(["finished", "crashed", "cancelled", "nonsense"], k=2)),
        Condition("author", "=", rng.choice(["ada", "Bob", *HOSTILE])),
        Condition("tags", "has", rng.choice(["a", "b", *HOSTILE])),
        Condition("hypothesis", "contains", rng.choice(["muon", "ÜNÏ", *HOSTILE])),
        Condition("val_bpb", ">=", rng.choice([1.25, 1.4])),
        Condition("val_bpb", "<=", rng.choice([1.5, 2])),
        Condition("val_bpb", "=", rng.choice([None, 1.25])),
        Condition("created_at", ">=", 1e9 + rng.randrange(10)),
        Condition("finished_at", "<=", 1e9 + rng.randrange(10)),
        Condition("failure", "=", rng.choice(["", "oom"])),
        Condition("id", "in", [f"e-{rng.randrange(40):06d}" for _ in range(20)]),
    ]
    return Query(
        tuple(rng.sample(conditions, k=rng.randrange(4))),
        order_by=rng.choice(["created_at", "finished_at", "val_bpb", "cost_s", "author", "id", "metrics.train_s"]),
        descending=rng.random() < 0.5,
        limit=rng.randrange(1, 9),
    )


def matching(table: Table, records: Iterable[Record], where: Sequence[Condition]) -> list[Record]:
    return [record for record in records if all(_accepts(cells(table, record)[c.column], c) for c in where)]


def ordered(table: Table, records: Iterable[Record], query: Query) -> list[Record]:
    """All rows of the query, written out a second time on purpose: nulls last, ties by id in the same direction."""
    rows = sorted(matching(table, records, query.where), key=lambda r: r.id, reverse=query.descending)
    known = [r for r in rows if _value(table, r, query.order_by) is not None]
    null = [r for r in rows if _value(table, r, query.order_by) is None]
    return sorted(known, key=lambda r: _value(table, r, query.order_by), reverse=query.descending) + null


def _value(table: Table, record: Record, name: str) -> Any:
    if name.startswith("metrics."):
        assert isinstance(record, Experiment)
        return record.metrics.get(name.removeprefix("metrics."))
    return cells(table, record)[name]


def counted(table: Table, records: Iterable[Record], where: Sequence[Condition], group_by: str) -> dict[str, int]:
    return dict(Counter(str(cells(table, record)[group_by]) for record in matching(table, records, where)))


def _accepts(cell: Any, condition: Condition) -> bool:
    value = condition.value
    match condition.op:
        case "=":
            return bool(cell == value)
        case "in":
            return cell in list(value)
        case "has":
            return any(item == value for item in cell)
        case "contains":
            return value.casefold() in cell.casefold()
        case ">=":
            return cell is not None and cell >= value
        case "<=":
            return cell is not None and cell <= value
