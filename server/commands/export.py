"""`autoresearch-mcp export`: the log in files, Parquet for analysis and other labs, and `results.tsv` as in karpathy's autoresearch."""

import argparse
import contextlib
import csv
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

from autoresearch_mcp.server.commands.arguments import add_lab, find_lab, say
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.schema import RECORD, TABLES, cells
from autoresearch_mcp.server.models import Experiment, Record, Table
from autoresearch_mcp.server.untrusted import one_line

EXAMPLES = ("autoresearch-mcp export out", "autoresearch-mcp export out my-lab")
TSV = "results.tsv"
TSV_COLUMNS = ("commit", "val_bpb", "memory_gb", "status", "description")
MAX_TEXT = 2000  # characters of a description
BATCH = 2_000  # rows of a Parquet file that are in memory at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("out", metavar="FOLDER", type=Path, help="made if it is missing")
    add_lab(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the files, and name them."""
    with contextlib.closing(Lab(find_lab(arguments.dir))) as lab:
        say(*export(lab, arguments.out))
    return 0


def export(lab: Lab, folder: Path) -> list[str]:
    """Write the lab's log into a folder.

    Returns:
        A line for each file.

    Raises:
        LabError: `not_written`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [_write_tsv(lab, folder / TSV)]
        return lines + [_write_parquet(lab, table, folder / f"{table}.parquet") for table in get_args(Table)]
    except OSError as error:
        raise LabError(f"{folder} cannot be written ({error.strerror}). Give another folder.", "not_written") from None


def _write_tsv(lab: Lab, path: Path) -> str:
    kept = {promotion.commit for promotion in lab.records("promotions")} | {lab.champion()}  # type: ignore[union-attr]
    experiments = [record for record in lab.records("experiments") if isinstance(record, Experiment) and record.terminal]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(TSV_COLUMNS)
        for e in sorted(experiments, key=lambda e: (e.created_at, e.id)):
            status = "crash" if e.metric is None else "keep" if e.commit in kept else "discard"
            memory_gb = float(e.details.get("peak_memory_mb") or 0) / 1024
            text = ("[reported] " if e.metric is not None and e.val_bpb is None else "") + one_line(e.hypothesis, MAX_TEXT)
            writer.writerow([e.commit[:7], f"{e.metric or 0:.6f}", f"{memory_gb:.1f}", status, text])
    return f"{path}: {len(experiments)} experiments"


def _write_parquet(lab: Lab, table: Table, path: Path) -> str:
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"text": pa.string(), "integer": pa.int64(), "real": pa.float64(), "list": pa.list_(pa.string())}
    columns = {name: column for name, column in TABLES[table].items() if not column.hidden}
    schema = pa.schema([*((name, kinds[column.type]) for name, column in columns.items()), (RECORD, pa.string())])
    written = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(lab.records(table)):
            rows = [
                {**{name: cell for name, cell in cells(table, record).items() if name in columns}, RECORD: record.model_dump_json()}
                for record in batch
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            written += len(rows)
    return f"{path}: {written} {table}"


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    remaining = iter(records)
    while batch := list(islice(remaining, BATCH)):
        yield batch
