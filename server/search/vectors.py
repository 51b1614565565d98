"""The stored vectors of a table, in memory: exact nearest neighbours under any filter.

A row's cell is the model's name, a NUL and float16s, so vectors of another model, or none, are told apart and left out.
Costs a kilobyte a row for 256 dimensions. Deeplake's own vector index would save that, but takes 2 KB a row on disk,
100 times as long to write, and knows no filters.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from autoresearch_mcp.server.search.embedding import EmbeddingsUnavailable

if TYPE_CHECKING:
    from autoresearch_mcp.server.search.embedding import Embedder, Vectors

COLUMN = "meaning"


def pack(model: str, vectors: "Vectors") -> list[bytes]:
    """Return the cells of a model's vectors, one a row."""
    import numpy as np

    return [_mark(model) + vector.tobytes() for vector in vectors.astype(np.float16)]


def unembedded(model: str) -> bytes:
    """Return the cell of a text that this model could not be asked about."""
    return _mark(model)


def is_of(model: str, cell: bytes) -> bool:
    """Return whether the cell was made for this model."""
    return cell.startswith(_mark(model))


def completed(embedder: "Embedder", texts: Sequence[str], stored: Sequence[bytes]) -> list[bytes]:
    """Return a cell for each text, embedding those whose stored cell is of another model or without a vector.

    Args:
        embedder: where it fails, those cells are marked as `unembedded`.
        texts: in the order of `stored`.
        stored: their cells, empty for new texts.
    """
    missing_vector = unembedded(embedder.name)
    cells = [cell if is_of(embedder.name, cell) else missing_vector for cell in stored]
    missing = [n for n, cell in enumerate(cells) if cell == missing_vector]
    try:
        fresh = pack(embedder.name, embedder.embed([texts[n] for n in missing])) if missing else []
    except EmbeddingsUnavailable:
        return cells
    for n, cell in zip(missing, fresh):
        cells[n] = cell
    return cells


class VectorIndex:
    """One model's vectors of a table. Rows are known by their position in the store. Not thread-safe.

    Args:
        model: whose vectors count; others are passed over.
        read: gives the cells of the rows from a first one up to, and without, a last one.
    """

    def __init__(self, model: str, read: Callable[[int, int], Sequence[bytes]]) -> None:
        self._mark = _mark(model)
        self._read = read
        self._rows = 0
        self._matrix: Any = None
        self._positions: Any = None
        self._known = 0

    def extend(self, rows: int) -> None:
        """Read the rows that are new, up to `rows`."""
        import numpy as np

        cells = self._read(self._rows, rows) if rows > self._rows else []
        first, self._rows = self._rows, max(rows, self._rows)
        fresh = [(first + n, cell[len(self._mark) :]) for n, cell in enumerate(cells) if cell.startswith(self._mark)]
        width = 2 * self._matrix.shape[1] if self._matrix is not None else next((len(cell) for _, cell in fresh if cell), 0)
        fresh = [(position, cell) for position, cell in fresh if cell and len(cell) == width]
        if not fresh:
            return
        if self._matrix is None or self._known + len(fresh) > len(self._matrix):
            room = max(self._known + len(fresh), 2 * self._known)
            matrix, positions = np.zeros((room, width // 2), np.float32), np.zeros(room, np.int64)
            if self._matrix is not None:
                matrix[: self._known], positions[: self._known] = self._matrix[: self._known], self._positions[: self._known]
            self._matrix, self._positions = matrix, positions
        place = slice(self._known, self._known + len(fresh))
        self._matrix[place] = np.frombuffer(b"".join(cell for _, cell in fresh), np.float16).reshape(len(fresh), -1)
        self._positions[place] = [position for position, _ in fresh]
        self._known += len(fresh)

    def nearest(self, vector: Any, allowed: Sequence[int] | None, limit: int) -> list[tuple[int, float]]:
        """Return positions and cosines, best first, the newest first on ties.

        Args:
            vector: of this model, of length 1.
            allowed: the only positions that count, or None for all.
            limit: the most hits to return.
        """
        import numpy as np

        if self._matrix is None or self._matrix.shape[1] != len(vector):
            return []
        positions, matrix = self._positions[: self._known], self._matrix[: self._known]
        if allowed is not None:
            mask = np.zeros(self._rows, bool)
            mask[np.fromiter(allowed, np.int64, len(allowed))] = True
            chosen = np.flatnonzero(mask[positions])
            positions, matrix = positions[chosen], matrix[chosen]
        cosines = matrix @ vector
        if len(cosines) > 4 * limit:  # sort the best only
            best = np.argpartition(-cosines, limit)[:limit]
            positions, cosines = positions[best], cosines[best]
        order = np.lexsort((-positions, -cosines))[:limit]
        return [(int(positions[n]), float(cosines[n])) for n in order]


def _mark(model: str) -> bytes:
    return model.encode() + b"\0"
