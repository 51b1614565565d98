"""Reads tables of predictions or answers from formats that run no code: CSV, NPY, NPZ and Parquet (fixed).

Pickle is never loaded, in no disguise: to unpickle a file is to run what its author wrote, and here that would be an agent, next to the
answers. So `.pkl`, `.joblib`, `.pt` and arrays of Python objects are refused. A scorer of your own can use `read` too.
"""

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ENDINGS = (".csv", ".npy", ".npz", ".parquet")
UNSAFE = (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill", ".cloudpickle", ".h5", ".keras", ".py", ".pyc", ".so")
ID = "id"  # the column that names rows, where there is one
PARTS = ("validation", "test")  # arrays of an .npz file, in this order
_FIELD = 1000  # characters of a cell
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


class TableError(ValueError):
    """A file that can't be read as a table; the text says what was expected."""


@dataclass(frozen=True)
class Table:
    """Rows of values.

    Attributes:
        values: numbers or texts, of the shape (rows,) or (rows, columns).
        ids: what the column `id` says of each row; None without one.
    """

    values: "np.ndarray[Any, Any]"
    ids: list[str] | None = None


def runs_code(path: Path) -> bool:
    """Return whether a file is of a format that runs code when it is loaded, by its name or its first bytes."""
    if path.suffix.lower() in UNSAFE:
        return True
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(_PICKLES):
        return True
    if head.startswith(b"\x93NUMPY") and b"'descr': '|O'" in head:
        return True
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.lower().endswith((".pkl", ".pickle")) for name in archive.namelist())
        except zipfile.BadZipFile:
            return False
    return False


def read(path: Path, max_mb: int = 1024) -> Table:
    """Read a table.

    Args:
        path: of a file whose name ends in one of `ENDINGS`.
        max_mb: what an archive may unpack to.

    Raises:
        TableError: it is none.
        ImportError: a Parquet file, and pyarrow is missing.
    """
    readers = {".csv": _read_csv, ".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise TableError(f"{path.name} must be one of {', '.join(ENDINGS)}.")
    if runs_code(path):
        raise TableError(f"{path.name} holds Python objects, which run code when they are loaded: leave plain numbers or texts.")
    try:
        table = readers[path.suffix.lower()](path, max_mb)
    except (TableError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise TableError(f"{path.name} can't be read: {type(error).__name__}: {str(error)[:200]}.") from None
    if table.values.dtype.kind not in "iufbU":
        raise TableError(f"{path.name} must hold numbers or texts; got {table.values.dtype}.")
    if table.values.ndim == 2 and table.values.shape[1] == 1:
        table = Table(table.values[:, 0], table.ids)
    if table.values.ndim not in (1, 2) or 0 in table.values.shape:
        raise TableError(f"{path.name} must have the shape (rows,) or (rows, columns); got {table.values.shape}.")
    return table


def _read_csv(path: Path, max_mb: int) -> Table:
    csv.field_size_limit(_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        lines = [row for row in rows if row]
    if not header or not lines:
        raise TableError(f"{path.name} must have a line of column names, and a line for each row.")
    if uneven := next((n for n, row in enumerate(lines, 2) if len(row) != len(header)), None):
        raise TableError(f"{path.name}, line {uneven}: expected {len(header)} cells, as in its first line.")
    return _of_columns(path, {name: [row[n] for row in lines] for n, name in enumerate(header)}, len(header))


def _read_parquet(path: Path, max_mb: int) -> Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        facts = file.metadata
        unpacked = sum(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups))
        if unpacked > max_mb << 20 or facts.num_rows * facts.num_columns > max_mb << 17:
            raise TableError(f"{path.name} unpacks to more than {max_mb} MB.")
        table = file.read(use_threads=False)
    names = table.column_names
    return _of_columns(path, {name: table.column(name).to_pylist() for name in names}, len(names))


def _of_columns(path: Path, columns: dict[str, list[Any]], count: int) -> Table:
    import numpy as np

    if len(columns) != count:
        raise TableError(f"{path.name} has two columns of one name.")
    ids = [str(value) for value in columns.pop(ID)] if ID in columns else None
    if not columns:
        raise TableError(f"{path.name} has no column beside {ID}.")
    arrays = []
    for name, cells in columns.items():
        if any(cell is None or cell == "" for cell in cells):
            raise TableError(f"{path.name}: the column {name[:40]!r} has an empty cell.")
        try:
            arrays.append(np.array([float(cell) for cell in cells]))
        except (TypeError, ValueError):
            arrays.append(np.array([str(cell)[:_FIELD] for cell in cells]))
    if len({array.dtype.kind for array in arrays}) > 1:
        raise TableError(f"{path.name} must hold numbers alone or texts alone, beside {ID}.")
    return Table(np.stack(arrays, 1), ids)


def _read_npy(path: Path, max_mb: int) -> Table:
    import numpy as np

    return Table(np.load(path, allow_pickle=False))


def _read_npz(path: Path, max_mb: int) -> Table:
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > max_mb << 20:
            raise TableError(f"{path.name} unpacks to more than {max_mb} MB.")
    with np.load(path, allow_pickle=False) as arrays:
        names = list(PARTS) if set(PARTS) <= set(arrays.files) else list(arrays.files)
        if len(names) != 1 and names != list(PARTS):
            raise TableError(f"{path.name} must hold one array, or two that are named {' and '.join(PARTS)}; got {', '.join(names)[:200]}.")
        return Table(np.concatenate([arrays[name] for name in names]))
