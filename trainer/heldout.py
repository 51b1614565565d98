"""Draws a lab's own held-out documents from a profile's data, with a secret of the lab's (fixed).

Everybody can read the public split: its text, and which of it is validation. A training script could carry that text in its source.
So each lab draws its own split. All documents of a profile are put in the order of an HMAC over each one. The first ones are the
validation split, the next ones the hidden split. Then comes a reserve that nothing ever reads. Trainings get the rest.

The reserve is what makes carried text worth little. Through the log, trainings can tell which documents they get, and so which ones are
held out. Nothing tells which of those are asked for. Text of the held-out documents, chosen blindly, meets the hidden split in proportion
to the split's share of them. S bytes in the source save at most 8 S bits of what they describe, so they gain at most 8 S / H bits per
byte on average, where H is the size of all held-out text.

The secret never leaves the lab: what is drawn with it stays with the scorer. Its fingerprint is public, and names the drawn data.

Not covered: a validation document that was stored by luck shows in val_bpb (0.012 bits per byte on the cpu profile, for a document
stored whole). So many trials can find a few of them. The hidden split, which the gate asks too, shows nothing of the kind.
"""

import hashlib
import hmac
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.trainer import files
from autoresearch_mcp.trainer.protocol import read_json, write_json

if TYPE_CHECKING:
    import numpy as np

SECRET_BYTES = 32
META, TOKENIZER, TOKEN_BYTES = "meta.json", "tokenizer.tiktoken", "token_bytes.npy"
SPLITS = ("train", "val", "test")


def read_secret(path: Path) -> bytes:
    """Read a lab's secret from its file: hexadecimal digits on a line.

    Raises:
        OSError: the file can't be read.
        ValueError: it holds something else.
    """
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}", text):
        raise ValueError(f"it must hold {2 * SECRET_BYTES} hexadecimal digits.")
    return bytes.fromhex(text)


def fingerprint(secret: bytes) -> str:
    """Return the public name of a secret: 12 hexadecimal digits, from which nothing of the secret follows."""
    return hmac.digest(secret, b"fingerprint", "sha256").hex()[:12]


def drawn_dir(source: Path, secret: bytes) -> Path:
    """Name the directory of what a secret draws from the data in `source`. It may not be there yet."""
    return source.with_name(f"{source.name}-{fingerprint(secret)}")


def draw(source: Path, secret: bytes, eval_bytes: int, reserve: float, documents: int | None = None, target: Path | None = None) -> Path:
    """Draw a lab's split from prepared data, unless that was done. Callers at the same time wait for the first.

    Args:
        source: directory of the profile's prepared data. It is only read.
        secret: of the lab.
        eval_bytes: validation text to draw; half as much is drawn for the hidden split.
        reserve: the share of all documents that is neither trained on nor asked for.
        documents: of the training split at most; None for all.
        target: where to put it; beside `source` by default.

    Returns:
        The directory with the lab's data, in the form of the profile's. Its files are for this user alone.

    Raises:
        ValueError: the text is too short, so that nothing would be left to train on.
    """
    target = target or drawn_dir(source, secret)
    if (target / META).exists():
        return target
    with files.locked(target.parent / f".{target.name}.lock"):
        if (target / META).exists():
            return target
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            _draw(source, secret, eval_bytes, reserve, documents, building)
            building.rename(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def _draw(source: Path, secret: bytes, eval_bytes: int, reserve: float, limit: int | None, directory: Path) -> None:
    import numpy as np

    meta = read_json(source / META) or {}
    widths = np.load(source / TOKEN_BYTES)
    pool = _documents(source, int(meta["vocab_size"]) - 1)
    key = hmac.digest(secret, b"held-out documents", "sha256")
    digests = [hmac.digest(key, document.tobytes(), "sha256") for document in pool]
    order = iter(sorted(range(len(pool)), key=digests.__getitem__))
    drawn = {split: _take(order, pool, widths, size) for split, size in (("val", eval_bytes), ("test", eval_bytes // 2))}
    unread = int(reserve * len(pool))
    drawn["train"] = list(order)[unread:][:limit]
    if not drawn["train"]:
        raise ValueError("the text is too short for a held-out split of its own.")
    meta |= {"heldout": fingerprint(secret), "tokens": {}, "documents": {}, "files": {}}
    for split in SPLITS:
        meta["documents"][split] = len(drawn[split])
        meta["tokens"][split] = _write([pool[i] for i in drawn[split]], directory / f"{split}.bin")
    for name in (TOKENIZER, TOKEN_BYTES):
        shutil.copyfile(source / name, directory / name)
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            meta["files"][path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(directory / META, meta)


def _documents(source: Path, bos: int) -> "list[np.ndarray[Any, Any]]":
    """Map the documents of all splits, each with its leading BOS."""
    import numpy as np

    documents = []
    for split in SPLITS:
        tokens = np.memmap(source / f"{split}.bin", dtype=np.uint16, mode="r")
        starts = np.flatnonzero(np.asarray(tokens) == bos).tolist()
        documents += [tokens[start:end] for start, end in zip(starts, [*starts[1:], len(tokens)])]
    return documents


def _take(order: Iterable[int], pool: "list[np.ndarray[Any, Any]]", widths: "np.ndarray[Any, Any]", size: int) -> list[int]:
    """Take documents in order until they hold `size` bytes."""
    taken = []
    for index in order:
        taken.append(index)
        size -= int(widths[pool[index]].sum())
        if size <= 0:
            break
    return taken


def _write(documents: "list[np.ndarray[Any, Any]]", path: Path) -> int:
    """Write documents one after the other; returns the number of their tokens."""
    with path.open("wb") as file:
        for document in documents:
            file.write(document.data)
    return path.stat().st_size // 2
