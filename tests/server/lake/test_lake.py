"""What every lake answers: one body over the folder and over the managed tables."""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from autoresearch_mcp.server.lake.base import Condition, Lake, Query
from autoresearch_mcp.server.lake.schema import cell
from autoresearch_mcp.server.models import Record
from tests.server.lake.records import HOSTILE, counted, experiment, matching, memory, ordered, promotion, random_experiment, random_query


def ids(records: Sequence[Record]) -> list[str]:
    return [record.id for record in records]


def test_an_empty_lake_answers(lake: Lake) -> None:
    assert lake.get("experiments", ["e-1"]) == []
    assert lake.select("memories", Query()) == []
    assert lake.count("promotions") == {"": 0}
    assert lake.search("anything") == []
    assert lake.warning() == ""


def test_what_was_appended_is_present_for_every_reader(lake: Lake, another: Callable[[], Lake]) -> None:
    reader = another()
    assert reader.present("experiments", ["e-000001"]) == {}
    lake.append("experiments", [experiment(1), experiment(2)])
    lake.append("promotions", [promotion(1)])
    assert reader.present("experiments", ["e-000001", "e-nonsense"]) == {"e-000001": 4}
    assert reader.get("experiments", ["e-000002", "e-nonsense", "e-000001"]) == [experiment(2), experiment(1)]
    assert reader.select("promotions", Query()) == [promotion(1)]
    lake.append("experiments", [experiment(3)])
    assert ids(reader.select("experiments", Query())) == ["e-000003", "e-000002", "e-000001"]


def test_a_row_written_twice_is_there_once_in_its_newest_version(lake: Lake, another: Callable[[], Lake]) -> None:
    lake.append("experiments", [experiment(1, version=2, state="crashed"), experiment(2)])
    lake.append("experiments", [experiment(1, version=3), experiment(1, version=1, state="cancelled"), experiment(2)])
    lake.append("experiments", [experiment(1, version=2, state="crashed")])
    for view in (lake, another()):
        assert view.present("experiments", ["e-000001"]) == {"e-000001": 3}
        assert view.count("experiments", group_by="state") == {"finished": 2}
        assert view.select("experiments", Query((Condition("state", "=", "crashed"),))) == []
        assert ids(view.select("experiments", Query())) == ["e-000002", "e-000001"]


def test_filters_orders_pages_and_counts_agree_with_brute_force(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    rows = [random_experiment(rng, n) for n in range(40)]
    for first in range(0, 40, 13):
        lake.append("experiments", rows[first : first + 13])
    assert lake.count("experiments") == {"": 40}
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.SYNC_EVERY_S", 600.0)
    for _ in range(150):
        query = random_query(rng)
        expected = ordered("experiments", rows, query)
        collected: list[Record] = []
        while page := lake.select("experiments", query):
            collected += page
            query = replace(query, after=(cell("experiments", page[-1], query.order_by), page[-1].id))
        assert collected == expected, query
        assert lake.count("experiments", query.where) == {"": len(expected)}
        assert lake.count("experiments", query.where, "state") == counted("experiments", rows, query.where, "state")


def test_memories_are_ranked_by_full_text_and_filtered(lake: Lake) -> None:
    lake.append("memories", [memory(n, f"filler note about warmup number {n}", author="bob") for n in range(300)])
    lake.append(
        "memories",
        [memory(300, "Muon with learning rates of 0.02 beats AdamW", tags=["optimizer"]), memory(301, "warmup of muon", kind="idea")],
    )
    assert ids([hit for hit, _ in lake.search("muon learning rate")]) == ["m-000300", "m-000301"]
    assert ids([hit for hit, _ in lake.search("muon", (Condition("kind", "=", "idea"),))]) == ["m-000301"]
    assert ids([hit for hit, _ in lake.search("warmup", (Condition("author", "=", "ada"),))]) == ["m-000301"]
    assert ids([hit for hit, _ in lake.search("losses")]) == []
    scores = [score for _, score in lake.search("warmup number", limit=50)]
    assert len(scores) == 50 and scores == sorted(scores, reverse=True) and min(scores) > 0


def test_equal_scores_put_the_newest_first(lake: Lake) -> None:
    lake.append("memories", [memory(n, "the same words") for n in range(300)])
    assert ids([hit for hit, _ in lake.search("words", limit=3)]) == ["m-000299", "m-000298", "m-000297"]


def test_a_search_without_words_gives_the_newest(lake: Lake) -> None:
    lake.append("memories", [memory(n, f"note {n}") for n in range(5)])
    for text in ("", "!!!", "'%"):
        assert [(hit.id, score) for hit, score in lake.search(text, limit=2)] == [("m-000004", 0.0), ("m-000003", 0.0)]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_only_text(lake: Lake, text: str) -> None:
    note = memory(1, f"{text} muon", tags=[text], author=text)
    lake.append("memories", [note])
    assert lake.get("memories", [note.id]) == [note]
    assert [hit for hit, _ in lake.search(f"{text} muon")] == [note]
    where = (Condition("tags", "has", text.replace("\0", "�")), Condition("author", "=", text.replace("\0", "�")))
    assert lake.select("memories", Query(where)) == matching("memories", [note], where) == [note]


def test_readers_in_other_threads_see_whole_writes(lake: Lake) -> None:
    done = threading.Event()
    faults: list[str] = []

    def read() -> None:
        before = 0
        while not done.is_set():
            rows = len(lake.select("experiments", Query(limit=1_000)))
            if rows % 5 or rows < before:
                faults.append(f"{rows} rows after {before}")
            before = rows

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    try:
        for first in range(0, 100, 5):
            lake.append("experiments", [experiment(n) for n in range(first, first + 5)])
    finally:
        done.set()
    for thread in readers:
        thread.join()
    assert faults == []
