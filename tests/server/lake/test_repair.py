"""A damaged lake is made whole from its journal; a copy of the folder is a backup."""

import os
import random
import shutil
import zlib
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.lake.base import LakeUnavailable, Query
from autoresearch_mcp.server.lake.embedded import journal
from autoresearch_mcp.server.lake.embedded.repair import repair
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from tests.server.lake.records import HOSTILE, experiment, memory, promotion


def filled(folder: Path) -> EmbeddedLake:
    lake = EmbeddedLake(folder)
    for n, text in enumerate(HOSTILE):
        lake.append("memories", [memory(n, f"{text} \u2028 note {n}")])
    lake.append("experiments", [experiment(1, version=2), experiment(2)])
    lake.append("experiments", [experiment(1, version=3)])
    return lake


def harm(path: Path, how: int) -> None:
    content = path.read_bytes()
    if how == 0:
        path.unlink()
    else:
        path.write_bytes((b"", content[: len(content) // 2], bytes(byte ^ 0x5A for byte in content))[how - 1])


@pytest.mark.parametrize("how", range(4))
def test_whatever_happens_to_deeplakes_files_no_record_is_lost(how: int, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    lake = filled(folder)
    everything = lake.select("memories", Query(limit=100))
    lake.close()
    victims = [
        path for path in sorted(folder.glob("memories.1/**/*")) if path.is_file() and path.stat().st_size and path.name != "next_base"
    ]
    for path in [*victims[how::5], *([folder / "memories.json"] if how == 1 else [])]:
        harm(path, how)
    with pytest.raises(LakeUnavailable, match="autoresearch-mcp repair"):
        EmbeddedLake(folder).count("memories")
    outcome = {each.table: each for each in repair(folder)}
    assert outcome["memories"].fault and outcome["memories"].rows == len(HOSTILE)
    assert not outcome["experiments"].fault and not outcome["promotions"].fault
    again = EmbeddedLake(folder)
    assert again.select("memories", Query(limit=100)) == everything
    assert again.present("experiments", ["e-000001", "e-000002"]) == {"e-000001": 3, "e-000002": 4}
    again.append("memories", [memory(99, "life goes on")])
    assert again.count("memories") == {"": len(HOSTILE) + 1}
    aside = outcome["memories"].set_aside
    assert aside is not None and (aside / "memories.journal").exists()


def test_a_sound_lake_is_left_alone(tmp_path: Path) -> None:
    filled(tmp_path / "lake").close()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix != ".lock"}
    assert all(not each.fault and each.set_aside is None for each in repair(tmp_path / "lake"))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix != ".lock"} == before


def test_a_torn_journal_costs_its_own_batch(tmp_path: Path) -> None:
    path = tmp_path / "memories.journal"
    sizes = []
    for n in range(4):
        journal.write(path, [f'{{"n": {n}}}', "second"])
        sizes.append(path.stat().st_size)
    whole = path.read_bytes()
    assert len(list(journal.read(path))) == 8
    path.write_bytes(whole[: sizes[3] - 3])
    assert len(list(journal.read(path))) == 6
    path.write_bytes(whole[: sizes[0] + 12] + b"\0\0\0" + whole[sizes[0] + 15 :])
    assert [line for line in journal.read(path) if line != "second"] == ['{"n": 0}', '{"n": 2}', '{"n": 3}']
    path.write_bytes(b"")
    assert list(journal.read(path)) == list(journal.read(tmp_path / "none")) == []


def test_a_damaged_header_costs_its_own_batch(tmp_path: Path) -> None:
    """One that claims an extra field which is longer than the rest of the file: the batch never reaches its end."""
    path = tmp_path / "memories.journal"
    sizes = [0]
    for n in range(4):
        journal.write(path, [f'{{"n": {n}}}'])
        sizes.append(path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[sizes[1] + 3] = 4  # the flag of the extra field
    data[sizes[1] + 10 : sizes[1] + 12] = b"\xff\xff"  # its length
    path.write_bytes(data)
    assert list(journal.read(path)) == ['{"n": 0}', '{"n": 2}', '{"n": 3}']


def test_reading_a_journal_unpacks_each_byte_a_few_times_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches it has: with what follows in every batch's way, 20,000 took half a minute."""
    path, dice, unpacked = tmp_path / "memories.journal", random.Random(1), 0
    monkeypatch.setattr(os, "fsync", lambda _: None)
    texts = [f'{{"n": {n}, "text": "{dice.randbytes(300).hex()}"}}' for n in range(1_000)]
    for text in texts:
        journal.write(path, [text])
    original = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self._unpacker = original(wbits)

        def decompress(self, data: bytes) -> bytes:
            nonlocal unpacked
            unpacked += len(data)
            return self._unpacker.decompress(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._unpacker, name)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    assert list(journal.read(path)) == texts
    assert path.stat().st_size <= unpacked <= 4 * path.stat().st_size


def test_a_damaged_journal_is_completed_from_a_sound_table(tmp_path: Path) -> None:
    filled(tmp_path / "lake").close()
    path = tmp_path / "lake" / "memories.journal"
    path.write_bytes(path.read_bytes()[:200] + b"damage" + path.read_bytes()[230:])
    assert not any(each.fault for each in repair(tmp_path / "lake"))
    (tmp_path / "lake" / "memories.json").write_bytes(b"")
    assert repair(tmp_path / "lake")[1].rows == len(HOSTILE)


def test_what_is_known_from_elsewhere_fills_the_gaps(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    lake = EmbeddedLake(folder)
    lake.append("promotions", [promotion(1), promotion(2)])
    lake.close()
    (folder / "promotions.journal").write_bytes(b"")
    (folder / "promotions.json").write_bytes(b"")
    (outcome,) = [each for each in repair(folder, {"promotions": [promotion(1), promotion(2)]}) if each.table == "promotions"]
    assert outcome.fault and outcome.rows == 2


def test_a_lake_from_before_the_journal_gets_a_whole_one(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    lake = filled(folder)
    (folder / "memories.journal").unlink()
    lake.append("memories", [memory(99, "the first one noted")])
    assert len(list(journal.read(folder / "memories.journal"))) == len(HOSTILE) + 1


def test_a_copy_of_the_folder_is_a_backup(tmp_path: Path) -> None:
    lake = filled(tmp_path / "lake")
    shutil.copytree(tmp_path / "lake", tmp_path / "backup")
    lake.append("memories", [memory(50, "after the backup")])
    shutil.rmtree(tmp_path / "lake")
    shutil.copytree(tmp_path / "backup", tmp_path / "lake")
    restored = EmbeddedLake(tmp_path / "lake")
    assert restored.count("memories") == {"": len(HOSTILE)} and restored.count("experiments") == {"": 2}
    restored.append("memories", [memory(51, "and on")])
    assert len(restored.search("note", limit=50)) == len(HOSTILE)
