"""A profile of an owner's own text: folders, JSON lines, Parquet and data sets of the hub, divided by hash, measured by the usual scorer."""

import io
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoresearch_mcp.trainer import own_text, prepare, profiles, protocol, shards
from autoresearch_mcp.trainer.gpu_check.hub import Hub
from autoresearch_mcp.trainer.protocol import OwnText
from tests.trainer.conftest import BIGRAM, Launched, Warm

WORDS = [f"{a}{b}" for a in ("th", "an", "wo", "str", "re") for b in ("e", "d", "rd", "ing", "ad", "em")]


def document(number: int) -> str:
    draw = random.Random(number)
    return " ".join(draw.choice(WORDS) for _ in range(250)) + f" number {number}."


def own(root: Path, **values: object) -> OwnText:
    return replace(OwnText(text=str(root), vocab_size=300, seq_len=32, eval_bytes=10_000, budget_s=5.0), **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with 240 documents in every format; ten of them are there twice."""
    root = tmp_path_factory.mktemp("text")
    (root / "deep").mkdir()
    (root / "a.txt").write_text("\n\n".join(document(n) for n in range(60)), encoding="utf-8")
    (root / "deep" / "b.jsonl").write_text("\n".join(json.dumps({"text": document(n), "n": n}) for n in range(60, 120)), encoding="utf-8")
    pq.write_table(pa.table({"text": [document(n) for n in range(120, 240)]}), root / "c.parquet", row_group_size=50)
    (root / "d.md").write_text("\n\n".join(document(n) for n in range(10)), encoding="utf-8")
    (root / "notes.pdf").write_bytes(b"%PDF")
    return root


def test_documents_of_every_format_are_divided_by_their_hash(root: Path, tmp_path: Path) -> None:
    directory = prepare.prepare("mine", tmp_path / "data", own(root))
    tokenizer = prepare.load_tokenizer(directory)
    text = {}
    for split in prepare.SPLITS:
        tokens = np.fromfile(directory / f"{split}.bin", dtype=np.uint16)
        text[split] = tokenizer.decode(tokens.tolist()).split(prepare.BOS)[1:]
    assert all(any(f"number {n}." in each for part in text.values() for each in part) for n in range(240))
    assert 10_000 <= sum(map(len, text["val"])) < 13_000 and 5_000 <= sum(map(len, text["test"])) < 8_000
    assert set(text["train"]).isdisjoint([*text["val"], *text["test"]]) and set(text["val"]).isdisjoint(text["test"])
    backwards = [*(each for part in text.values() for each in part)][::-1]
    again = own_text.split(lambda: iter(backwards), 10_000)
    assert sorted(again["val"]()) == sorted(text["val"]) and sorted(again["test"]()) == sorted(text["test"])
    meta = prepare.read_json(directory / prepare.META) or {}
    assert set(meta["sources"]) == {"a.txt", "b.jsonl", "c.parquet", "d.md"}


def test_other_text_has_another_directory_and_text_that_does_not_do_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(document(1), encoding="utf-8")
    before = prepare.data_dir("mine", own(tmp_path / "text"))
    (tmp_path / "text" / "a.txt").write_text(document(1) + "!", encoding="utf-8")
    assert prepare.data_dir("mine", own(tmp_path / "text")) != before
    for given, words in (
        (own(tmp_path / "text"), r"bytes of text, and eval_bytes = 10,000 needs 50,000"),
        (own(root, column="body"), "has no column 'body'"),
        (own(root, column="n", files="deep/*"), "holds no text under 'n'"),
        (own(root, files="*.html"), r"holds no file \*\.html"),
        (own(tmp_path / "nowhere"), "there is no folder"),
    ):
        with pytest.raises(prepare.PreparationError, match=words):
            prepare.prepare("mine", tmp_path / "data", given)
    assert not (tmp_path / "data").exists()


def test_long_paragraphs_are_cut_and_a_limit_of_text_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("word\n" * 4000 + "\n\nend", encoding="utf-8")
    every = list(own_text.documents([tmp_path / "a.txt"], own(tmp_path)))
    assert max(map(len, every)) <= own_text.LONGEST_CHARS and "".join(every).count("word") == 4000
    (tmp_path / "b.txt").write_text("\n\n".join(document(n) for n in range(2000)), encoding="utf-8")
    some = list(own_text.documents([tmp_path / "b.txt"], own(tmp_path, max_mb=1)))
    assert 1 << 20 <= sum(map(len, some)) < (1 << 20) + 10_000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    parquet = io.BytesIO()
    pq.write_table(pa.table({"body": [document(n) for n in range(200)]}), parquet)
    small = "\n".join(json.dumps({"body": document(n)}) for n in range(200, 230)).encode()
    hub = Hub({"data/train 0.parquet": parquet.getvalue(), "data/train-1.jsonl": small, "README.md": b"# Data", ".gitattributes": b""})
    hub.small = {"data/train-1.jsonl"}
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    yield hub
    hub.close()


def test_a_data_set_of_the_hub_is_found_by_its_name_downloaded_once_and_checked(hub: Hub, tmp_path: Path) -> None:
    given = replace(own(tmp_path), text="", dataset="me/texts", files="data/*", column="body")
    directory = prepare.prepare("mine", tmp_path / "data", given)
    meta = prepare.read_json(directory / prepare.META) or {}
    assert sum(meta["documents"].values()) == 230 and meta["sources"]["train 0.parquet"] == hub.hashes["data/train 0.parquet"]
    kept = tmp_path / "me--texts" / "data" / "train-1.jsonl"
    kept.write_bytes(b"damaged")
    shards.fetch_files("me/texts", ["data/train-1.jsonl"], tmp_path / "me--texts", wait_s=0.001)
    assert kept.read_bytes() == hub.files["data/train-1.jsonl"]
    with pytest.raises(prepare.PreparationError, match="has no file test/"):
        prepare.prepare("mine", tmp_path / "other", replace(given, files="test/*"))
    with pytest.raises(shards.ShardError, match="outside of the data set"):
        shards.fetch_files("me/texts", ["../../x.txt"], tmp_path / "me--texts")


def test_it_is_measured_by_the_scorer_of_the_built_in_profiles_and_its_text_stays_hidden(warm: Warm, root: Path, tmp_path: Path) -> None:
    given = own(root)
    data = prepare.prepare("mine", tmp_path / "data", given)
    data = prepare.draw(profiles.find("mine", given), data, b"s" * 32, tmp_path / "drawn")
    peek = f"""
    try:
        print("READ", open({str(root / "a.txt")!r}).read(9))
    except OSError:
        print("hidden", run.config["profile"], run.config["seq_len"])
"""
    run = warm.directory(BIGRAM.replace("    # before submit", peek), 5.0)
    spec = {**(protocol.read_json(run / protocol.SPEC) or {}), "profile": "mine", "data": str(data), "own_text": asdict(given)}
    protocol.write_json(run / protocol.SPEC, spec)
    launched = Launched(run, warm.ask(run)["pid"])
    result = launched.wait()
    assert result["state"] == "finished", result["failure"]
    assert 0.5 < result["val_bpb"] < 3 and launched.hidden is not None and "hidden cpu 32" in launched.log
    shorter = {**spec, "own_text": {**spec["own_text"], "eval_bytes": 9_000}}
    parsed = protocol.parse_result(result)
    assert protocol.conditions(parsed, spec) != protocol.conditions(parsed, shorter)
