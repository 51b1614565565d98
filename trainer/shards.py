"""Downloads the original's corpus, shards of web text on the Hugging Face hub, and checks it (fixed).

A shard is there whole and with the SHA-256 that the hub names for it, or not at all. A download that breaks off goes on
where it stopped, also in a later process. One that brings other bytes starts again. Each failure in a row doubles the
wait, up to a minute, and a download is given up after `PATIENCE` of them without a new byte.

Not covered: a hub that names a wrong hash. Two labs that were served different text have different data hashes, so
their results are not compared.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

TEST, VALIDATION = 6541, 6542  # the last shard is the original's validation; training takes the first ones
PATIENCE = 6
AT_ONCE = 4
_TIMEOUT_S, _LONGEST_WAIT_S = 30.0, 60.0
_CHUNK, _LISTING_BYTES = 1 << 20, 64 << 20
_PASSING = (408, 416, 429, 500, 502, 503, 504)  # HTTP errors that may be gone next time


class ShardError(Exception):
    """A shard can't be downloaded; the text says why and what was kept."""


@dataclass(frozen=True)
class _Shard:
    """A file as the hub describes it: where it is at a fixed commit, and what is in it."""

    url: str
    size: int
    digest: str  # SHA-256 of its content; of a small file the 40 digits that git names it by

    def is_in(self, path: Path) -> bool:
        """Return whether a file has this content."""
        if len(self.digest) == 64:
            return _sha256(path) == self.digest
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == self.digest


def fetch(dataset: str, numbers: Sequence[int], folder: Path, wait_s: float = 1.0) -> dict[Path, str]:
    """Download these shards unless they are there.

    Args:
        numbers: of the shards.
        folder: where they go.
        dataset: owner/name on the hub that $HF_ENDPOINT names, https://huggingface.co by default.
        wait_s: after the first failure of a download.

    Returns:
        The SHA-256 of each file, in the order asked.

    Raises:
        ShardError: the hub can't be reached, doesn't have one, or keeps sending other bytes; or the disk is full.
    """
    return fetch_files(dataset, [f"shard_{number:05d}.parquet" for number in numbers], folder, wait_s)


def names(dataset: str) -> list[str]:
    """Return the paths of all files of a data set, as the hub lists them.

    Raises:
        ShardError: the hub can't be reached, or doesn't have it.
    """
    url = f"{_hub()}/api/datasets/{dataset}"
    try:
        with _open(Request(url)) as answer:  # noqa: S310
            listed = json.loads(answer.read(_LISTING_BYTES))["siblings"]
            return sorted(str(file["rfilename"]) for file in listed)
    except HTTPError as error:
        error.close()
        hint = " Only public data sets can be read." if error.code in (401, 403, 404) else ""
        raise ShardError(f"the hub answers {error.code} {error.reason} for the data set {dataset}.{hint}") from error
    except (OSError, HTTPException) as error:
        raise ShardError(f"{url} can't be reached: {getattr(error, 'reason', error)}.") from error
    except (ValueError, KeyError, TypeError):
        raise ShardError(f"{url} doesn't list files as the Hugging Face hub does. Check $HF_ENDPOINT.") from None


def fetch_files(dataset: str, names: Sequence[str], folder: Path, wait_s: float = 1.0) -> dict[Path, str]:
    """Download files of a data set unless they are there. The arguments are those of `fetch`, but for their paths in the data set.

    Returns:
        The SHA-256 of each file, in the order asked.

    Raises:
        ShardError: as for `fetch`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given_up, causes = threading.Event(), list[BaseException]()

    def one(name: str) -> tuple[Path, str]:
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):
            raise ShardError(f"the hub names a file {name!r}, outside of the data set.")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            return target, _Download(dataset, name, target, wait_s, given_up).run()
        except BaseException as error:
            if not given_up.is_set():
                causes.append(error)
            given_up.set()  # the others need not go on for long
            raise

    with ThreadPoolExecutor(AT_ONCE) as pool:
        coming = [pool.submit(one, name) for name in names]
        try:
            return dict(download.result() for download in coming)
        except BaseException as error:
            raise (causes[0] if causes else error) from None
        finally:
            given_up.set()


def documents(paths: Iterable[Path]) -> Iterator[str]:
    """Yield the texts of these shards, in order. One row group of one shard is in memory at a time."""
    import pyarrow.parquet as pq

    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, columns=["text"]).column("text").to_pylist()


class _Download:
    """One shard, through failures."""

    def __init__(self, dataset: str, name: str, target: Path, wait_s: float, given_up: threading.Event) -> None:
        self._url = f"{_hub()}/datasets/{dataset}/resolve/main/{quote(name)}"
        self._target, self._part = target, target.with_suffix(".part")
        self._wait_s, self._given_up = wait_s, given_up
        self._failures = self._spoiled = 0

    def run(self) -> str:
        """Download it.

        Returns:
            Its SHA-256.
        """
        shard: _Shard | None = None
        while True:
            had = self._had()
            try:
                shard = shard or self._describe()
                if self._complete(shard):
                    return shard.digest if len(shard.digest) == 64 else _sha256(self._target)
            except (OSError, HTTPException) as error:
                if isinstance(error, HTTPError):
                    error.close()
                    if error.code == 416:  # the part is longer than the file
                        self._part.unlink(missing_ok=True)
                self._failures = 0 if self._had() > had else self._failures + 1
                self._wait(error)

    def _describe(self) -> _Shard:
        answer: HTTPResponse | HTTPError
        try:
            answer = _open(Request(self._url, method="HEAD"), _ToTheSameHost())  # noqa: S310
        except HTTPError as redirect:
            if not 300 <= redirect.code < 400:
                raise
            answer = redirect
        with answer:
            given = [answer.headers.get(name, "").strip('W/"') for name in ("X-Linked-Etag", "X-Linked-Size", "ETag", "Content-Length")]
            commit = answer.headers.get("X-Repo-Commit", "").strip()
        etag, size = given[:2] if given[0] else given[2:]  # a small file is no link to a storage, and its hash is git's
        if not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", etag) or not re.fullmatch(r"[0-9a-f]{40}", commit) or not size.isdecimal():
            raise ShardError(
                f"{self._url} comes without the SHA-256 that the Hugging Face hub names for its large files. Check $HF_ENDPOINT."
            )
        return _Shard(self._url.replace("/resolve/main/", f"/resolve/{commit}/"), int(size), etag)

    def _complete(self, shard: _Shard) -> bool:
        """Go on with the download, and return whether the file is there as it should be."""
        if self._target.exists():
            if shard.is_in(self._target):
                return True
            self._target.unlink()
        if self._had() < shard.size:
            self._append(shard)
        if self._had() < shard.size:
            raise ConnectionError("the connection was closed early")
        if shard.is_in(self._part):
            self._part.rename(self._target)
            return True
        self._part.unlink()
        self._spoiled += 1
        if self._spoiled == 2:
            raise ShardError(
                f"{self._url} came twice with other bytes than the hub's SHA-256 says. Nothing of it was kept; try again later."
            )
        return False

    def _append(self, shard: _Shard) -> None:
        had = self._had()
        request = Request(shard.url, headers={"Range": f"bytes={had}-"} if had else {})  # noqa: S310
        with _open(request) as answer:
            goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {had}-")
            try:
                with self._part.open("ab" if goes_on else "wb", buffering=0) as file:
                    self._copy(answer, file, shard.size - (had if goes_on else 0))
            except _DiskError as error:
                raise ShardError(f"{self._part} can't be written: {error.__cause__}. What came is kept.") from error

    def _copy(self, answer: HTTPResponse, file: IO[bytes], size: int) -> None:
        while size > 0 and not self._given_up.is_set() and (chunk := answer.read(min(_CHUNK, size))):
            try:
                written = 0
                while written < len(chunk):  # a disk that is nearly full takes a part, and refuses the next write
                    written += file.write(chunk[written:])
            except OSError as error:
                raise _DiskError from error
            size -= len(chunk)

    def _had(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def _wait(self, error: OSError | HTTPException) -> None:
        reason = f"the hub answers {error.code} {error.reason}" if isinstance(error, HTTPError) else str(getattr(error, "reason", error))
        if self._given_up.is_set() or self._failures >= PATIENCE or (isinstance(error, HTTPError) and error.code not in _PASSING):
            raise ShardError(f"{self._url} could not be downloaded: {reason}. What came is kept; run it again to go on.") from error
        asked = error.headers.get("Retry-After", "") if isinstance(error, HTTPError) else ""
        wait_s = float(asked) if asked.isdecimal() else self._wait_s * 2 ** max(0, self._failures - 1)
        self._given_up.wait(min(wait_s, _LONGEST_WAIT_S))


class _DiskError(Exception):
    """The file can't be written. Waiting for the network won't help."""


class _ToTheSameHost(HTTPRedirectHandler):
    """Stops at the redirect from the hub to its storage: the redirect names hash and size, the storage doesn't."""

    def redirect_request(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str) -> Request | None:
        if urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            return None
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            request.method = req.get_method()
        return request


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def _open(request: Request, *handlers: HTTPRedirectHandler) -> HTTPResponse:
    if not request.full_url.startswith(("http://", "https://")):
        raise ShardError(f"{request.full_url} is not the address of a hub: $HF_ENDPOINT must begin with https:// or http://.")
    answer: HTTPResponse = build_opener(*handlers).open(request, timeout=_TIMEOUT_S)
    return answer


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
