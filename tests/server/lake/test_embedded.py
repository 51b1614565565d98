"""The embedded lake answers exactly, keeps what it acknowledged, and says so when it can't be read."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autoresearch_mcp.server.lake.base import Condition, LakeUnavailable, Query
from autoresearch_mcp.server.lake.embedded.manifest import read_head, write_head
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.lake.schema import SCHEMA_VERSION
from autoresearch_mcp.server.models import Record
from tests.server.lake.records import experiment, memory, promotion


@pytest.fixture
def lake(tmp_path: Path) -> EmbeddedLake:
    return EmbeddedLake(tmp_path / "lake")


@pytest.fixture
def few_commits(monkeypatch: pytest.MonkeyPatch) -> int:
    """Rewrites come early, so that a test sees several."""
    monkeypatch.setattr("autoresearch_mcp.server.lake.embedded.dataset.MOST_COMMITS", 6)
    return 6


def ids(records: Sequence[Record]) -> list[str]:
    return [record.id for record in records]


def test_an_empty_lake_answers_and_makes_nothing(lake: EmbeddedLake, tmp_path: Path) -> None:
    assert lake.get("experiments", ["e-1"]) == []
    assert lake.select("memories", Query()) == []
    assert lake.count("promotions") == {"": 0}
    assert lake.search("anything") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("known", [0, 5_000], ids=["by Deeplake", "in memory"])
def test_words_find_the_newest_text_of_a_note_wherever_their_index_is(
    lake: EmbeddedLake, known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.lake.embedded.store._KNOWN", known)
    lake.append("memories", [memory(n, f"a filler note about warmup, number {n}") for n in range(40)])
    lake.append("memories", [memory(40, "muon and a longer warmup"), memory(41, "a muon alone, which says muon twice")])
    assert ids([hit for hit, _ in lake.search("muon")]) == ["m-000041", "m-000040"]
    lake.append("memories", [memory(41, "it is about rope now").model_copy(update={"version": 2}), memory(42, "muon")])
    assert ids([hit for hit, _ in lake.search("muon")]) == ["m-000042", "m-000040"]
    assert {*ids([hit for hit, _ in lake.search("rope of muons")])} == {"m-000041", "m-000042", "m-000040"}
    assert ids([hit for hit, _ in lake.search("warmup", (Condition("id", "=", "m-000040"),))]) == ["m-000040"]
    assert len(lake.search("warmup", limit=50)) == 41 and lake.search("absent") == []


def test_history_is_reset_before_it_slows_the_table_down(lake: EmbeddedLake, tmp_path: Path, few_commits: int) -> None:
    folder = tmp_path / "lake"
    reader = EmbeddedLake(folder)
    for n in range(4 * few_commits):
        if n == few_commits:
            lake.append("promotions", [promotion(0).model_copy(update={"version": 2})])
        lake.append("promotions", [promotion(n)])
        if n % 5 == 0:
            assert reader.count("promotions") == {"": n + 1}
        for retired in folder.glob("promotions.*/"):
            os.utime(retired, (0, 0))  # as if a minute had passed
    head = read_head(folder / "promotions.json")
    assert head is not None and head.commits <= few_commits and head.rows == 4 * few_commits
    assert len(list(folder.glob("promotions.*/"))) <= 2
    assert lake.present("promotions", ["p-0"]) == {"p-0": 2}
    assert reader.count("promotions") == {"": 4 * few_commits}


def test_a_reader_that_slept_through_a_rewrite_wakes_up_in_the_newest_generation(
    lake: EmbeddedLake, tmp_path: Path, few_commits: int
) -> None:
    lake.append("promotions", [promotion(0)])
    reader = EmbeddedLake(tmp_path / "lake")
    assert reader.count("promotions") == {"": 1}
    for n in range(1, few_commits + 2):
        lake.append("promotions", [promotion(n)])
    shutil.rmtree(tmp_path / "lake" / "promotions.1")
    assert len(reader.get("promotions", ["p-0", "p-3"])) == 2


WRITER = """
import sys
from pathlib import Path
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from tests.server.lake.records import promotion
lake = EmbeddedLake(Path(sys.argv[1]))
for n in range(int(sys.argv[2]), int(sys.argv[3])):
    lake.append("promotions", [promotion(n)])
    assert lake.present("promotions", [f"p-{n}"])
    print(n, flush=True)
"""


def writer(folder: Path, first: int, last: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first), str(last)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [writer(tmp_path, first, first + 40) for first in (0, 100)]
    for process in writers:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert EmbeddedLake(tmp_path).count("promotions") == {"": 80}


def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(9)
    acknowledged: list[str] = []
    for first in range(0, 400, 100):
        process = writer(tmp_path, first, first + 100)
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 12)):
            acknowledged.append(f"p-{process.stdout.readline().strip()}")
        threading.Event().wait(rng.random() / 30)  # somewhere inside the next write
        os.killpg(process.pid, signal.SIGKILL)
        rest, _ = process.communicate(timeout=60)
        acknowledged += [f"p-{n}" for n in rest.split()]
        reader = EmbeddedLake(tmp_path)
        assert set(reader.present("promotions", acknowledged)) == set(acknowledged)
        assert len(reader.get("promotions", acknowledged)) == len(acknowledged)


def test_everything_that_counts_is_fsynced_before_it_is_acknowledged(
    lake: EmbeddedLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), fsync(handle)))
    for n in range(3):
        lake.append("memories", [memory(n, "note")])
    folder = tmp_path / "lake"
    head = read_head(folder / "memories.json")
    assert head is not None
    needed = [folder / f"memories.{head.generation}" / name for name in head.files]
    needed += [folder, folder / "memories.json", *(path.parent for path in needed)]
    assert [path for path in needed if path.stat().st_ino not in synced] == []


def filled(folder: Path) -> Path:
    lake = EmbeddedLake(folder)
    lake.append("memories", [memory(1, "muon helps"), memory(2, "adam does not")])
    lake.append("memories", [memory(3, "muon again")])
    return folder


def test_damage_of_any_file_is_noticed_before_deeplake_dies_of_it(tmp_path: Path) -> None:
    sound = filled(tmp_path / "sound")
    files = [
        path
        for path in sound.rglob("*")
        if path.is_file() and path.stat().st_size and path.name != "next_base" and path.suffix != ".journal"
    ]
    assert len(files) > 20
    for number, path in enumerate(files):
        broken = tmp_path / f"broken-{number}"
        shutil.copytree(sound, broken)
        victim = broken / path.relative_to(sound)
        content = victim.read_bytes()
        harm = number % 4
        if harm == 0:
            victim.unlink()
        else:
            victim.write_bytes((b"", content[: len(content) // 2], bytes(byte ^ 0x5A for byte in content))[harm - 1])
        with pytest.raises(LakeUnavailable, match=r"damaged.*repair.*backup"):
            EmbeddedLake(broken).search("muon")
        with pytest.raises(LakeUnavailable):
            EmbeddedLake(broken).append("memories", [memory(4, "new")])


def test_counters_that_change_in_place_may_be_lost(tmp_path: Path) -> None:
    folder = filled(tmp_path / "lake")
    for counter in folder.rglob("next_base"):
        counter.write_bytes(b"")
    lake = EmbeddedLake(folder)
    lake.append("memories", [memory(4, "new")])
    assert lake.count("memories") == {"": 4}


def test_torn_files_of_an_unpublished_write_are_cleared_away(tmp_path: Path) -> None:
    folder = filled(tmp_path / "lake")
    head = read_head(folder / "memories.json")
    assert head is not None
    EmbeddedLake(folder).append("memories", [memory(4, "muon, never published")])
    later = read_head(folder / "memories.json")
    assert later is not None
    torn = [folder / "memories.1" / name for name in set(later.files) - set(head.files)]
    for path in torn:
        path.write_bytes(b"" if len(path.name) % 2 else path.read_bytes())
    write_head(folder / "memories.json", head)  # as a power cut before the head's replacement leaves it
    lake = EmbeddedLake(folder)
    assert lake.count("memories") == {"": 3} and len(lake.search("muon")) == 2
    assert not any(path.exists() for path in torn)
    lake.append("memories", [memory(5, "muon, published")])
    assert len(EmbeddedLake(folder).search("muon")) == 3


def test_a_lake_without_its_head_is_damaged_and_not_new(tmp_path: Path) -> None:
    folder = filled(tmp_path / "lake")
    (folder / "memories.json").unlink()
    with pytest.raises(LakeUnavailable, match="is missing"):
        EmbeddedLake(folder).count("memories")
    assert EmbeddedLake(folder).count("experiments") == {"": 0}


def test_a_lake_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    folder = filled(tmp_path / "lake")
    head = read_head(folder / "memories.json")
    assert head is not None
    write_head(folder / "memories.json", replace(head, schema=99))
    with pytest.raises(LakeUnavailable, match=r"newer version.*Upgrade"):
        EmbeddedLake(folder).append("memories", [memory(4, "new")])


def test_a_lake_of_the_version_before_is_read_and_then_rewritten(tmp_path: Path, version_before: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "lake"
    records = [experiment(n, started_at=1e9 + n if n else None, details={"steps": 100 * n}) for n in range(4)]
    EmbeddedLake(folder).append("experiments", records[:3])
    head = read_head(folder / "experiments.json")
    assert head is not None and head.schema == SCHEMA_VERSION - 1
    version_before.undo()
    lake = EmbeddedLake(folder)
    query = Query((Condition("steps", ">=", 100.0),), order_by="started_at")
    assert lake.select("experiments", query) == records[2:0:-1]
    lake.append("experiments", records[3:])
    renewed = read_head(folder / "experiments.json")
    assert renewed is not None and renewed.schema == SCHEMA_VERSION and renewed.generation == head.generation + 1
    for each in (lake, EmbeddedLake(folder)):
        assert each.select("experiments", query) == records[:0:-1]
        assert each.select("experiments", Query((Condition("started_at", "=", None),))) == records[:1]


def test_a_lake_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(LakeUnavailable, match="can't be written"):
        EmbeddedLake(tmp_path / "lake").append("memories", [memory(1, "note")])


def test_long_text_is_read_a_part_at_a_time_and_not_kept(tmp_path: Path) -> None:
    lake = EmbeddedLake(tmp_path)
    lake.append("memories", [memory(n, f"{n} " + "x" * 8_000) for n in range(3_000)])
    assert sum(1 for _ in lake.cells("memories", ["id", "kind"])) == 3_000
    tracemalloc.start()
    try:
        texts = [text[:10].split()[0] for _, text in lake.cells("memories", ["id", "text"])]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert texts == [str(n) for n in range(3_000)]
    assert peak < 12 << 20  # of 24 MB


def test_rows_that_are_written_or_moved_while_they_are_read_come_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.lake.embedded.store._FEW_LONG", 3)
    monkeypatch.setattr("autoresearch_mcp.server.lake.embedded.dataset.MOST_COMMITS", 1)  # every write rewrites the table
    lake = EmbeddedLake(tmp_path)
    lake.append("memories", [memory(n, f"note {n}") for n in range(10)])
    rows = lake.cells("memories", ["id", "text"])
    first = [next(rows) for _ in range(4)]
    lake.append("memories", [memory(2, "note 2", version=2), memory(10, "note 10")])
    assert sorted([*first, *rows]) == [(f"m-{n:06d}", f"note {n}") for n in range(10)]
