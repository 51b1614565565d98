"""One view over the ledger's and the lake's records: exact, and never a gap or a double while records move."""

import random
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Query
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.lake.schema import cell
from autoresearch_mcp.server.lake.view import MergedView
from autoresearch_mcp.server.models import Record, Table
from tests.server.lake.records import counted, experiment, memory, ordered, random_experiment, random_query


class Outbox:
    """What a ledger promises of its unflushed records: one snapshot a call, and gone only when settled."""

    def __init__(self, *records: Record) -> None:
        self._lock = threading.Lock()
        self._records = {record.id: record for record in records}

    def __call__(self, table: Table) -> list[Record]:
        with self._lock:
            return list(self._records.values())

    def add(self, record: Record) -> None:
        with self._lock:
            self._records[record.id] = record

    def settle(self, versions: dict[str, int]) -> None:
        with self._lock:
            for id, version in versions.items():
                if self._records[id].version <= version:
                    del self._records[id]


@pytest.fixture
def lake(tmp_path: Path) -> EmbeddedLake:
    return EmbeddedLake(tmp_path / "lake")


def ids(records: Sequence[Record]) -> list[str]:
    return [record.id for record in records]


def test_filters_orders_pages_and_counts_agree_with_brute_force_wherever_the_rows_are(lake: EmbeddedLake) -> None:
    rng = random.Random(4)
    rows = [random_experiment(rng, n) for n in range(40)]
    older = [random_experiment(rng, n).model_copy(update={"version": 2}) for n in range(20, 30)]
    lake.append("experiments", [*rows[:20], *older, *rows[30:35]])
    view = MergedView(lake, Outbox(*rows[15:35:2], *rows[20:30], *rows[35:]))
    for _ in range(150):
        query = random_query(rng)
        expected = ordered("experiments", rows, query)
        collected: list[Record] = []
        while page := view.select("experiments", query).value:
            collected += page
            query = replace(query, after=(cell("experiments", page[-1], query.order_by), page[-1].id))
        assert collected == expected
        assert view.count("experiments", query.where).value == {"": len(expected)}
        assert view.count("experiments", query.where, "author").value == counted("experiments", rows, query.where, "author")


def test_an_agent_reads_its_own_writes_before_there_is_a_lake(tmp_path: Path) -> None:
    for lake in (None, EmbeddedLake(tmp_path / "lake")):
        view = MergedView(lake, Outbox(memory(1, "muon helps"), memory(2, "adam")))
        assert ids(view.get("memories", ["m-000002", "m-nonsense"]).value) == ["m-000002"]
        assert ids(view.select("memories", Query()).value) == ["m-000002", "m-000001"]
        assert ids([hit for hit, _ in view.search("muon").value.hits]) == ["m-000001"]
        assert view.count("memories").value == {"": 2}
        assert view.count("memories").warning == ""
        view.close()


def test_the_newest_version_wins_on_either_side(lake: EmbeddedLake) -> None:
    lake.append("experiments", [experiment(1, version=5), experiment(2, version=3)])
    view = MergedView(lake, Outbox(experiment(1, version=4, state="running"), experiment(2, version=4, state="cancelled")))
    records = view.get("experiments", ["e-000001", "e-000002"]).value
    assert [(r.state, r.version) for r in records if r.id.startswith("e")] == [("finished", 5), ("cancelled", 4)]  # type: ignore[union-attr]
    assert view.count("experiments", group_by="state").value == {"finished": 1, "cancelled": 1}
    assert ids(view.select("experiments", Query((Condition("state", "=", "finished"),))).value) == ["e-000001"]


def test_unflushed_notes_are_ranked_among_the_lakes(lake: EmbeddedLake) -> None:
    lake.append("memories", [memory(n, "the learning rate of adam") for n in range(20)] + [memory(20, "muon learning rate")])
    view = MergedView(
        lake,
        Outbox(
            memory(30, "muon wants a higher learning rate"),
            memory(31, "the rate"),
            memory(32, "unrelated"),
            memory(20, "muon learning rate"),
        ),
    )
    hits = ids([hit for hit, _ in view.search("muon learning rate", limit=4).value.hits])
    assert set(hits[:2]) == {"m-000020", "m-000030"} and len(hits) == len(set(hits)) == 4
    assert ids([hit for hit, _ in view.search("rate", (Condition("created_at", ">=", 1e9 + 30),)).value.hits]) in (
        ["m-000031", "m-000030"],
        ["m-000030", "m-000031"],
    )
    assert ids([hit for hit, _ in view.search("", limit=2).value.hits]) == ["m-000032", "m-000031"]


def test_without_the_lake_the_ledgers_part_is_answered_with_a_warning(lake: EmbeddedLake, tmp_path: Path) -> None:
    lake.append("experiments", [experiment(1)])
    lake.close()
    (tmp_path / "lake" / "experiments.json").write_text("", encoding="utf-8")
    view = MergedView(EmbeddedLake(tmp_path / "lake"), Outbox(experiment(2)))
    with pytest.raises(LakeUnavailable):
        lake.count("experiments")
    for read in (view.get("experiments", ["e-000001", "e-000002"]), view.select("experiments", Query())):
        assert ids(read.value) == ["e-000002"]
        assert "knows only the 1 experiments" in read.warning and "backup" in read.warning
    assert view.count("experiments", group_by="state").value == {"finished": 1}


def test_a_query_that_makes_no_sense_is_refused_even_without_a_lake() -> None:
    view = MergedView(None, Outbox())
    with pytest.raises(LabError):
        view.select("experiments", Query((Condition("nonsense", "=", 1),)))
    with pytest.raises(LabError):
        view.select("experiments", Query(order_by="nonsense"))
    with pytest.raises(LabError):
        view.count("experiments", group_by="nonsense")


def test_every_acknowledged_record_is_seen_exactly_once_while_records_move(tmp_path: Path) -> None:
    """The runner's dance: queue, run, end, flush, read back, settle; readers in the same process and over a second handle."""
    outbox = Outbox()
    runners = EmbeddedLake(tmp_path / "lake")
    acknowledged: list[str] = []
    done = threading.Event()
    faults: list[str] = []

    def work() -> None:
        try:
            for first in range(0, 48, 3):
                for n in range(first, first + 3):
                    outbox.add(experiment(n, state="queued", version=0, finished_at=None))
                    acknowledged.append(f"e-{n:06d}")
                    outbox.add(experiment(n, state="running", version=1, finished_at=None))
                    outbox.add(experiment(n, version=2))
                ended = [record for record in outbox("experiments") if record.version == 2]
                runners.append("experiments", ended)
                outbox.settle(runners.present("experiments", ids(ended)))
        finally:
            done.set()

    def watch(view: MergedView, rng: random.Random) -> None:
        while not done.is_set():
            known = list(acknowledged)
            readable = ids(view.get("experiments", known).value)
            if readable != known:
                faults.append(f"get: {set(known) - set(readable)}")
            listed: list[str] = []
            query = Query(limit=rng.randrange(10, 30), descending=False)
            while page := view.select("experiments", query).value:
                listed += ids(page)
                query = replace(query, after=(cell("experiments", page[-1], "created_at"), page[-1].id))
            if len(listed) != len(set(listed)) or not set(known) <= set(listed):
                faults.append(f"select: {len(listed)} rows, {len(set(listed))} ids, missing {set(known) - set(listed)}")
            total = view.count("experiments").value[""]
            if not len(known) <= total <= len(acknowledged):
                faults.append(f"count: {total} of {len(known)} to {len(acknowledged)}")

    views = [
        MergedView(runners, outbox),
        MergedView(EmbeddedLake(tmp_path / "lake"), outbox),
        MergedView(EmbeddedLake(tmp_path / "lake"), outbox),
    ]
    watchers = [threading.Thread(target=watch, args=(view, random.Random(n))) for n, view in enumerate(views)]
    for thread in watchers:
        thread.start()
    work()
    for thread in watchers:
        thread.join()
    assert faults == []
    assert outbox("experiments") == [] and len(acknowledged) == 48
