"""The original's corpus, from a hub on loopback that drops connections, refuses, and sends other bytes."""

import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoresearch_mcp.trainer import prepare, shards
from autoresearch_mcp.trainer.gpu_check.hub import COMMIT, Hub

DATASET = "karpathy/climbmix-400b-shuffle"
NAMES = {number: f"shard_{number:05d}.parquet" for number in (0, 1, shards.TEST, shards.VALIDATION)}
TEXTS = {number: [f"{word} {n} of shard {number}, and so on. " * 20 for n in range(300)] for number, word in zip(NAMES, "abcd")}


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, row_group_size=100, compression="zstd", use_dictionary=False)
    return file.getvalue()


class FaultyHub(Hub):
    """The stand-in of the hub, which here drops connections, refuses, and sends other bytes."""

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = defaultdict(list)  # of the next downloads of a file, used up
        self.asked: list[tuple[str, str | None]] = []  # file and Range, of each download
        super().__init__({NAMES[number]: parquet(texts) for number, texts in TEXTS.items()})

    def describe(self, request: BaseHTTPRequestHandler) -> None:
        assert request.command == "HEAD" or f"/{DATASET}/resolve/{COMMIT}/" in request.path
        super().describe(request)

    def send(self, request: BaseHTTPRequestHandler, name: str) -> None:
        data, range_ = self.files[name], request.headers.get("Range")
        self.asked.append((name, range_))
        fault = self.faults[name].pop(0) if self.faults[name] else ""
        if fault.isdecimal():
            request.send_response(int(fault))
            request.send_header("Retry-After", "0")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int(range_.removeprefix("bytes=").rstrip("-")) if range_ and fault != "whole" else 0
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        part = data[start:]
        if fault == "drop":
            part = part[: len(part) // 2]
        elif fault == "spoil":
            part = bytes(len(part))
        request.wfile.write(part)
        request.close_connection = True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyHub]:
    hub = FaultyHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    yield hub
    hub.close()


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., dict[Path, str]]:
    return lambda *numbers: shards.fetch(DATASET, numbers, tmp_path / "shards", wait_s=0.001)


def test_shards_come_whole_and_with_their_hashes(hub: FaultyHub, fetch: Callable[..., dict[Path, str]]) -> None:
    fetched = fetch(*NAMES)
    assert {path.name: digest for path, digest in fetched.items()} == hub.hashes
    assert [path.name for path in fetched] == list(NAMES.values())
    assert list(shards.documents(fetched)) == [text for texts in TEXTS.values() for text in texts]
    hub.asked.clear()
    assert fetch(*NAMES) == fetched and hub.asked == []


def test_a_download_goes_on_where_it_broke_off(hub: FaultyHub, fetch: Callable[..., dict[Path, str]]) -> None:
    hub.faults[NAMES[0]] = ["drop", "503", "drop", "429"]
    (path,) = fetch(0)
    assert path.read_bytes() == hub.files[path.name]
    size = len(hub.files[path.name])
    half, most = size // 2, size // 2 + (size - size // 2) // 2
    assert [range_ for _, range_ in hub.asked] == [None, f"bytes={half}-", f"bytes={half}-", f"bytes={most}-", f"bytes={most}-"]


def test_a_server_that_knows_no_ranges_and_a_part_that_is_too_long_start_it_anew(
    hub: FaultyHub, fetch: Callable[..., dict[Path, str]]
) -> None:
    hub.faults[NAMES[0]], hub.faults[NAMES[1]] = ["drop", "whole"], ["416"]
    folder = next(iter(fetch(shards.TEST))).parent
    (folder / NAMES[1]).with_suffix(".part").write_bytes(b"x" * 10)
    assert [path.read_bytes() for path in fetch(0, 1)] == [hub.files[NAMES[0]], hub.files[NAMES[1]]]


def test_an_interrupted_process_leaves_a_part_for_the_next(hub: FaultyHub, fetch: Callable[..., dict[Path, str]]) -> None:
    hub.faults[NAMES[0]] = ["drop", *["503"] * 50]
    with pytest.raises(shards.ShardError, match=r"answers 503.*kept; run it again to go on"):
        fetch(0)
    assert len(hub.asked) == 1 + shards.PATIENCE
    hub.faults.clear()
    hub.asked.clear()
    assert next(iter(fetch(0))).read_bytes() == hub.files[NAMES[0]]
    assert hub.asked == [(NAMES[0], f"bytes={len(hub.files[NAMES[0]]) // 2}-")]


def test_other_bytes_than_the_hub_names_are_never_taken(hub: FaultyHub, fetch: Callable[..., dict[Path, str]], tmp_path: Path) -> None:
    hub.faults[NAMES[0]] = ["spoil"]
    assert next(iter(fetch(0))).read_bytes() == hub.files[NAMES[0]]
    hub.faults[NAMES[1]] = ["spoil", "spoil"]
    with pytest.raises(shards.ShardError, match="twice with other bytes"):
        fetch(1)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [NAMES[0]]


def test_a_file_that_was_damaged_on_the_disk_is_fetched_again(hub: FaultyHub, fetch: Callable[..., dict[Path, str]]) -> None:
    (path,) = fetch(0)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert next(iter(fetch(0))).read_bytes() == hub.files[NAMES[0]]


def test_one_shard_that_is_not_there_ends_all_with_its_own_reason(hub: FaultyHub, fetch: Callable[..., dict[Path, str]]) -> None:
    with pytest.raises(shards.ShardError, match=r"shard_00077\.parquet could not be downloaded: the hub answers 404"):
        fetch(0, 77, 1)


def test_a_host_that_names_no_hash_is_no_hub(hub: FaultyHub, fetch: Callable[..., dict[Path, str]]) -> None:
    hub.hashes[NAMES[0]] = "d41d8cd98f00b204"
    with pytest.raises(shards.ShardError, match=r"without the SHA-256.*Check \$HF_ENDPOINT"):
        fetch(0)


def test_addresses_that_are_not_of_the_web_are_refused(monkeypatch: pytest.MonkeyPatch, fetch: Callable[..., dict[Path, str]]) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(shards.ShardError, match="must begin with https://"):
        fetch(0)


def test_a_profile_of_web_text_is_prepared_from_its_shards(hub: FaultyHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = replace(prepare.PROFILES["h100"], vocab_size=300, shards=2, eval_bytes=100_000)
    monkeypatch.setitem(prepare.PROFILES, "h100", limits)
    directory = prepare.prepare("h100", tmp_path / "data")
    tokenizer = prepare.load_tokenizer(directory)

    def text(split: str) -> list[str]:
        tokens = np.fromfile(directory / f"{split}.bin", dtype=np.uint16)
        return tokenizer.decode(tokens.tolist()).split(prepare.BOS)[1:]

    assert text("train") == TEXTS[0] + TEXTS[1]
    val, test = text("val"), text("test")
    assert val == TEXTS[shards.VALIDATION][: len(val)] and 100_000 <= sum(map(len, val)) < 101_000
    assert test == TEXTS[shards.TEST][: len(test)] and 50_000 <= sum(map(len, test)) < 51_000
    meta = prepare.read_json(directory / prepare.META)
    assert meta is not None and meta["sources"] == hub.hashes and meta["documents"]["train"] == 600


def test_a_hub_that_is_away_leaves_no_data_directory_and_a_sentence(
    hub: FaultyHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.files.pop(NAMES[1])
    with pytest.raises(prepare.PreparationError, match=r"profile h100 could not be fetched.*404"):
        prepare.prepare("h100", tmp_path / "data")
    assert not (tmp_path / "data").exists()
