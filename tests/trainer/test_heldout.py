"""A lab's own held-out split: who knows the public text by heart knows nothing of it."""

import base64
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoresearch_mcp.trainer import heldout, prepare, protocol
from tests.trainer.conftest import BIGRAM, Launched, Warm

TINY = prepare.PROFILES["tiny"]
# It knows a text by heart: where the last four tokens occur in it, what follows there is nearly certain.
BY_HEART = """
import base64, lzma
import numpy as np
import torch
from autoresearch_mcp.trainer import client

TEXT = {text!r}

class ByHeart(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = torch.nn.Embedding(size, size)
        text = torch.from_numpy(np.frombuffer(lzma.decompress(base64.b85decode(TEXT)), dtype=np.uint16).astype(np.int64))
        self.size = size
        keys, order = self.keys(text[None])[0, :-1].sort()
        self.register_buffer("known", keys, persistent=False)
        self.register_buffer("next", text[1:][order], persistent=False)

    def keys(self, idx):
        past = torch.nn.functional.pad(idx, (3, 0))
        return sum(past[:, i : i + idx.shape[1]] * self.size ** i for i in range(4))

    def forward(self, idx):
        logits = self.table(idx)
        keys = self.keys(idx)
        at = torch.searchsorted(self.known, keys).clamp(max=len(self.known) - 1)
        hit = (self.known[at] == keys).float() * 20
        return logits.scatter_add(2, self.next[at][..., None], hit[..., None])

def build_model(config):
    return ByHeart(config["vocab_size"])

if __name__ == "__main__":
    run = client.connect()
    tokens = run.start()
    size = run.config["vocab_size"]
    pairs = tokens[:-1].astype(np.int64) * size + tokens[1:]
    counts = np.bincount(pairs, minlength=size * size).reshape(size, size) + 0.1
    model = ByHeart(size)
    model.table.weight.data = torch.from_numpy(np.log(counts)).float()
    run.submit(model.state_dict(), {{"vocab_size": size}})
"""


def documents(data: Path, split: str) -> list[bytes]:
    tokens = np.fromfile(data / f"{split}.bin", dtype=np.uint16)
    starts = np.flatnonzero(tokens == TINY.vocab_size - 1)
    return [part.tobytes() for part in np.split(tokens, starts[1:])]


def train_on(data: Path, warm: Warm, code: str) -> Launched:
    run = warm.directory(code)
    protocol.write_json(run / protocol.SPEC, {**(protocol.read_json(run / protocol.SPEC) or {}), "data": str(data)})
    return Launched(run, warm.ask(run)["pid"])


@pytest.fixture(scope="module")
def drawn(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare.draw(TINY, data, b"a" * heldout.SECRET_BYTES, tmp_path_factory.mktemp("drawn") / "own")


def test_a_text_known_by_heart_scores_on_the_public_split_and_gains_nothing_on_a_labs_own(data: Path, drawn: Path, warm: Warm) -> None:
    public = np.fromfile(data / "val.bin", dtype=np.uint16)[:12_000].tobytes()
    by_heart = BY_HEART.format(text=base64.b85encode(lzma.compress(public)).decode())
    cheat = train_on(data, warm, by_heart).wait()["val_bpb"]
    honest = train_on(data, warm, BIGRAM).wait()["val_bpb"]
    assert cheat < honest - 1.0, "the cheat works where the split is public"
    cheat, honest = train_on(drawn, warm, by_heart).wait()["val_bpb"], train_on(drawn, warm, BIGRAM).wait()["val_bpb"]
    assert cheat > honest - 0.1, "what it knows by heart is mostly of documents that nobody asks for"


def test_a_secret_decides_what_is_held_out_and_the_same_one_decides_the_same(data: Path, drawn: Path, tmp_path: Path) -> None:
    again = prepare.draw(TINY, data, b"a" * heldout.SECRET_BYTES, tmp_path / "again")
    other = prepare.draw(TINY, data, b"b" * heldout.SECRET_BYTES, tmp_path / "other")
    assert prepare.data_hashes(again) == prepare.data_hashes(drawn)
    assert prepare.data_hashes(other)["data"] != prepare.data_hashes(drawn)["data"]
    assert prepare.data_hashes(other)["tokenizer"] == prepare.data_hashes(drawn)["tokenizer"] == prepare.data_hashes(data)["tokenizer"]
    assert not set(documents(other, "val")) & set(documents(drawn, "val"))


def test_no_document_is_in_two_splits_and_a_reserve_is_in_none(data: Path, drawn: Path) -> None:
    pool = [document for split in prepare.SPLITS for document in documents(data, split)]
    parts = {split: set(documents(drawn, split)) for split in prepare.SPLITS}
    assert not (parts["train"] & parts["val"] or parts["train"] & parts["test"] or parts["val"] & parts["test"])
    assert set().union(*parts.values()) < set(pool)
    unread = len(pool) - sum(len(part) for part in parts.values())
    assert unread >= TINY.reserve * len(pool)
    widths = np.load(drawn / prepare.TOKEN_BYTES)
    for split, size in (("val", TINY.eval_bytes), ("test", TINY.eval_bytes // 2)):
        assert widths[np.fromfile(drawn / f"{split}.bin", dtype=np.uint16)].sum() >= size


def test_neither_the_secret_nor_what_it_drew_can_be_read_by_a_training(drawn: Path, warm: Warm, tmp_path: Path) -> None:
    secret = tmp_path / "heldout.secret"
    secret.write_text("61" * heldout.SECRET_BYTES, encoding="utf-8")
    code = BIGRAM.replace(
        "    # before submit",
        f"""
    import os
    for path in ({str(secret)!r}, {str(drawn / "val.bin")!r}, {str(drawn / "meta.json")!r}):
        try:
            open(path, "rb")
            print("opened", path)
        except OSError as error:
            print(type(error).__name__)
    print([name for name, value in os.environ.items() if "6161" in value])
""",
    )
    launched = train_on(drawn, warm, code)
    assert launched.wait()["state"] == "finished"
    assert launched.log.split("\n")[:4] == ["PermissionError"] * 3 + ["[]"]


def test_results_under_two_secrets_are_not_compared(data: Path, drawn: Path, warm: Warm) -> None:
    def conditions(data: Path) -> str:
        launched = train_on(data, warm, BIGRAM)
        launched.wait()
        result = protocol.read_result(launched.run)
        assert result is not None
        return protocol.conditions(result, protocol.read_json(launched.run / protocol.SPEC) or {})

    assert conditions(drawn) == conditions(drawn) != conditions(data)


def test_the_command_draws_beside_the_public_data_for_this_user_alone(cache: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0f" * heldout.SECRET_BYTES + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "autoresearch_mcp.trainer.prepare", "tiny", "--secret", str(secret)]
    printed = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    assert printed == heldout.drawn_dir(prepare.data_dir("tiny"), heldout.read_secret(secret))
    assert printed.stat().st_mode & 0o077 == 0
    secret.write_text("no secret", encoding="utf-8")
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr == "it must hold 64 hexadecimal digits.\n"
