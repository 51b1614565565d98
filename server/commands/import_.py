"""`autoresearch-mcp import`: another lab's log, taken in from its export or from a `results.tsv` of karpathy's autoresearch.

Imported records can be queried and searched. They never count for the gate, the budget or the leaderboard, because they were not
measured here. A record with a known id stays as it is. The metric in a `results.tsv` is one that a training script printed itself, so it
becomes `reported_bpb`.
"""

import argparse
import contextlib
import csv
import hashlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.commands.export import BATCH, MAX_TEXT, TSV, TSV_COLUMNS
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.schema import RECORD, TABLES, parse
from autoresearch_mcp.server.ledger.cleaning import cleaned
from autoresearch_mcp.server.models import IMPORTED, Experiment, Failure, Record, Table
from autoresearch_mcp.server.untrusted import clean

EXAMPLES = ("autoresearch-mcp import ../other/out", "autoresearch-mcp import results.tsv my-lab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="a results.tsv, a Parquet file of an export, or a folder with them")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Import the files, and say how much of each was new."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        say(*import_(lab, arguments.source))
    return 0


def import_(lab: Lab, source: Path) -> list[str]:
    """Add other records to the lab's log.

    Args:
        lab: the lab that gets them.
        source: a `results.tsv`, a Parquet file of an export, or a folder with them.

    Returns:
        A line for each file.

    Raises:
        LabError: `bad_import`: nothing was added of the file that it names.
    """
    inside = [path for path in sorted(source.glob("*.parquet")) if path.stem in TABLES] or list(source.glob(TSV))
    files = inside if source.is_dir() else [source]
    if not files or not all(path.is_file() for path in files):
        raise LabError(
            f"{source} is not a {TSV}, a Parquet file of an export, or a folder with such files. Nothing was imported.", "bad_import"
        )
    return [_import_file(lab, path) for path in files]


def _import_file(lab: Lab, path: Path) -> str:
    tables: dict[str, Table] = {table: table for table in get_args(Table)}
    table = tables.get(path.stem, "experiments") if path.suffix == ".parquet" else "experiments"
    try:
        records = _from_parquet(table, path) if path.suffix == ".parquet" else _from_tsv(path)
        parsed = [_marked(record) for record in records]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:  # pydantic's and Arrow's errors are ValueErrors
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise LabError(f"{path} can't be imported: {reason}. Nothing of it was imported.", "bad_import") from None
    new = lab.import_records(table, parsed)
    return f"{path}: {new} new {table}, {len(parsed) - new} known already"


def _from_tsv(path: Path) -> Iterator[Record]:
    now = time.time()
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = tuple(next(rows, []))
        if header != TSV_COLUMNS:
            raise ValueError(f"its first line must be {' '.join(TSV_COLUMNS)}, separated by tabs")
        for number, row in enumerate(rows):
            if len(row) != len(TSV_COLUMNS):
                raise ValueError(f"line {number + 2} has {len(row)} fields instead of {len(TSV_COLUMNS)}")
            yield _from_row(number, dict(zip(TSV_COLUMNS, row)), now)


def _from_row(number: int, row: dict[str, str], now: float) -> Experiment:
    metric, memory_gb = float(row["val_bpb"]), float(row["memory_gb"])
    if row["status"] not in ("keep", "discard", "crash") or not math.isfinite(metric) or not math.isfinite(memory_gb):
        raise ValueError(f"line {number + 2} needs a status (keep, discard or crash) and finite numbers")
    crashed = row["status"] == "crash"
    digest = hashlib.sha256("\t".join([str(number), *row.values()]).encode()).hexdigest()
    return Experiment(
        id=f"e-{digest[:15]}",
        commit=clean(row["commit"])[:40],
        base="",
        author="results.tsv",
        hypothesis=row["description"][:MAX_TEXT],
        tags=[row["status"]],
        seed=0,
        state="crashed" if crashed else "finished",
        device="unknown",
        created_at=now + number * 1e-3,
        reserved_s=0.0,
        reported_bpb=None if crashed else metric,
        failure=Failure(kind="error", message="It crashed, says results.tsv.") if crashed else None,
        details={"peak_memory_mb": memory_gb * 1024},
    )


def _from_parquet(table: Table, path: Path) -> Iterator[Record]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=[RECORD]):
            for text in batch.column(0).to_pylist():
                yield parse(table, text)


def _marked(record: Record) -> Record:
    """Tag a record as imported, with its texts cleaned as if an agent had sent them. Only what has ended can be imported."""
    if isinstance(record, Experiment) and not record.terminal:
        raise ValueError(f"{record.id} has not ended")
    values = _cleaned(record.model_dump())
    if "tags" in values:
        values["tags"] = sorted({*values["tags"], IMPORTED})
    marked = type(record).model_validate(values)
    return cleaned(marked) if isinstance(marked, Experiment) else marked


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {str(key): _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value
