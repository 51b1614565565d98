"""Embeds texts as vectors, with a small local model or with an endpoint that speaks OpenAI's protocol.

The local model (the extra `embeddings`) is WordLlama's table of 32,000 token vectors, averaged: no torch, 0.1 ms a text, 35 MB.
It knows words rather than sentences ("not" hardly counts). An endpoint is sent the text of notes and of queries.

A vector is a row of float32 of length 1. A text without known words gets zeros, which are near nothing.
"""

import functools
import importlib.util
import json
import os
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.error import HTTPError

from autoresearch_mcp.server.addresses import checked_url, opener
from autoresearch_mcp.server.errors import LabError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from autoresearch_mcp.server.settings import EmbeddingsSection

    Vectors = NDArray[np.float32]

KEY = "AUTORESEARCH_EMBEDDINGS_KEY"
WITHIN_S = 20.0  # of one `embed`
PAUSE_S = 30.0  # before an endpoint that failed is asked again
_MOST_TEXT = 8_000  # characters
_MOST_ANSWER = 64 << 20  # bytes
_TEXTS = 64  # a request
_MOST_KNOWN = 4_096  # texts whose vectors are kept
_READING = threading.Lock()  # of the local model's files


class EmbeddingsUnavailable(Exception):
    """There is no vector now; the text says why, and holds no secret."""


class Embedder(Protocol):
    """The contract of every model. Thread-safe. Vectors of one `name` can be compared."""

    name: str
    local: bool  # costs next to nothing, and no text leaves the machine
    floor: float  # texts with a smaller cosine have nothing to do with each other

    def embed(self, texts: Sequence[str]) -> "Vectors":
        """Return a row for each text.

        Raises:
            EmbeddingsUnavailable: within about `WITHIN_S`.
        """
        ...


def open_embedder(section: "EmbeddingsSection") -> Embedder | None:
    """Make the model that `[embeddings]` names; with "auto" the local one where the extra is installed, else none.

    Raises:
        LabError: `bad_settings`: the model is not installed, or the address is not usable.
    """
    if section.backend == "none":
        return None
    if section.backend == "endpoint":
        return Endpoint(checked_url(section.url, "lab.toml: [embeddings] url"), section.model, os.environ.get(KEY, "").strip())
    package = importlib.util.find_spec("wordllama")
    if package is not None and package.submodule_search_locations:
        return LocalModel(Path(package.submodule_search_locations[0]))
    if section.backend == "local":
        raise LabError(
            "lab.toml: [embeddings] backend is \"local\", and the model is not installed: pip install 'autoresearch-mcp[embeddings]'.",
            "bad_settings",
        )
    return None


class LocalModel:
    """Implements `Embedder` with the files of the package wordllama in `folder`. Its code is not used: it would look for them on a hub."""

    name = "wordllama-l2-256"
    local = True
    floor = 0.2

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def embed(self, texts: Sequence[str]) -> "Vectors":
        """Return a row for each text.

        Raises:
            EmbeddingsUnavailable: the model's files can't be read.
        """
        import numpy as np

        tokenizer, table = self._model()
        vectors = np.zeros((len(texts), table.shape[1]), np.float32)
        for row, tokens in enumerate(tokenizer.encode_batch([text[:_MOST_TEXT] for text in texts], add_special_tokens=False)):
            if tokens.ids:
                vectors[row] = table[tokens.ids].mean(axis=0)
        return _unit(vectors)

    def _model(self) -> tuple[Any, Any]:
        try:
            with _READING:
                return _read(self._folder)
        except Exception as error:  # tokenizers raises bare Exceptions
            raise EmbeddingsUnavailable(f"The local embedding model can't be read ({type(error).__name__}).") from error


@functools.cache
def _read(folder: Path) -> tuple[Any, Any]:
    """Return the local model's tokenizer and table. A process that opens several labs holds its 35 MB once."""
    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    (table,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()
    return tokenizer, table.astype(np.float32)


class Endpoint:
    """Implements `Embedder` with `POST {url}/embeddings`. After a failure it is left alone for `PAUSE_S`, so that no search waits in vain."""

    local = False
    floor = 0.0  # every model has a scale of its own

    def __init__(self, url: str, model: str, key: str) -> None:
        self.name = model
        self._url = url
        self._key = key
        self._opener = opener()
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._failed_at: float | None = None

    def embed(self, texts: Sequence[str]) -> "Vectors":
        """Return a row for each text; texts that are known are not sent again.

        Raises:
            EmbeddingsUnavailable: the endpoint fails, or failed less than `PAUSE_S` ago.
        """
        import numpy as np

        short = [text[:_MOST_TEXT] or " " for text in texts]
        with self._lock:
            known = {text: self._known[text] for text in short if text in self._known}
            if self._failed_at is not None and time.monotonic() - self._failed_at < PAUSE_S and len(known) < len(set(short)):
                raise EmbeddingsUnavailable("The embedding endpoint failed a moment ago.")
        missing = [text for text in dict.fromkeys(short) if text not in known]
        deadline = time.monotonic() + WITHIN_S
        try:
            for first in range(0, len(missing), _TEXTS):
                batch = missing[first : first + _TEXTS]
                known |= zip(batch, self._ask(batch, deadline - time.monotonic()))
            vectors = _unit(np.array([known[text] for text in short], np.float32))
        except (OSError, ValueError, KeyError, TypeError) as error:  # urllib's errors are OSErrors
            self._failed_at = time.monotonic()
            reason = type(error).__name__
            if isinstance(error, HTTPError):
                reason = str(error.code)
                error.close()
            reason = f"The embedding endpoint {self._url} does not answer as it should ({reason})."
            raise EmbeddingsUnavailable(reason) from None  # the request in its chain holds the key
        with self._lock:
            self._failed_at = None
            self._known = known | (self._known if len(self._known) < _MOST_KNOWN else {})
        return vectors

    def _ask(self, texts: Sequence[str], within_s: float) -> list[list[float]]:
        if within_s <= 0:
            raise TimeoutError
        request = urllib.request.Request(  # noqa: S310 - the address was checked
            f"{self._url}/embeddings",
            json.dumps({"model": self.name, "input": list(texts)}).encode(),
            {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
        )
        with self._opener.open(request, timeout=within_s) as response:
            answer = json.loads(response.read(_MOST_ANSWER))
        rows = sorted(answer["data"], key=lambda entry: entry["index"])
        if len(rows) != len(texts):
            raise ValueError
        return [[float(value) for value in entry["embedding"]] for entry in rows]


def _unit(vectors: "Vectors") -> "Vectors":
    import numpy as np

    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit
