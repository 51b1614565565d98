"""The calls that open and make Deeplake datasets, and its errors in words. Deeplake is imported by the first of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.lake.base import LakeUnavailable
from autoresearch_mcp.server.lake.schema import RECORD, TABLES
from autoresearch_mcp.server.models import Table


@contextmanager
def explained(doing: str, path: Path) -> Iterator[None]:
    """Turn Deeplake's errors into ours. It raises a dozen kinds, most of them RuntimeError: all mean that the store can't be used now.

    Args:
        doing: the verb of the block's purpose, for the error.
        path: what it is done to.

    Raises:
        LakeUnavailable: with Deeplake's reason.
    """
    try:
        yield
    except LakeUnavailable:
        raise
    except ImportError as error:
        raise LakeUnavailable("The package deeplake is not installed or does not fit this platform: see the README.") from error
    except Exception as error:
        text = str(error).splitlines()[0][:200] if str(error) else ""
        raise LakeUnavailable(f"Deeplake could not {doing} {path} ({type(error).__name__}: {text}).") from error


def open_to_read(directory: Path) -> Any:
    """Open a dataset that others may write to; its `refresh` shows what they committed."""
    import deeplake

    return deeplake.open_read_only(str(directory))


def open_to_write(directory: Path) -> Any:
    """Open a dataset whose appended rows are indexed at once."""
    import deeplake

    dataset = deeplake.open(str(directory))
    dataset.indexing_mode = deeplake.IndexingMode.Always
    return dataset


def create(directory: Path, table: Table) -> Any:
    """Make an empty dataset with the columns of a table, open for writing."""
    import deeplake
    from deeplake import types

    kinds = {"text": types.Text(), "list": types.Text(), "integer": types.Int64(), "real": types.Float64(), "bytes": types.Bytes()}
    dataset = deeplake.create(str(directory))
    for column in TABLES[table].values():
        dataset.add_column(column.name, types.Text(types.BM25) if column.name == "terms" else kinds[column.type])
    dataset.add_column(RECORD, types.Text())
    dataset.indexing_mode = deeplake.IndexingMode.Always
    return dataset
