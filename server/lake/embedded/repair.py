"""Makes a damaged lake whole, from its journals and its sound files. Deletes nothing.

The runner does it when it meets damage, or a person, with the command `repair`. A table whose files can't be trusted is set
aside and written anew from its journal. The next flush or the caller adds what the ledger still keeps: unflushed records and
every promotion. Only rows whose part of the journal is damaged too are lost.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from autoresearch_mcp.server.lake.base import LakeUnavailable
from autoresearch_mcp.server.lake.embedded import journal
from autoresearch_mcp.server.lake.embedded.manifest import Head, write_head
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.lake.schema import SCHEMA_VERSION, parse
from autoresearch_mcp.server.models import Record, Table

_BATCH = 5_000


@dataclass(frozen=True)
class Repaired:
    """The outcome for one table. `fault` is empty where it was sound."""

    table: Table
    fault: str
    rows: int
    set_aside: Path | None = None


def repair(folder: Path, known: dict[Table, Sequence[Record]] | None = None) -> list[Repaired]:
    """Check every table of a lake, and rebuild the damaged ones.

    Args:
        folder: the lake's.
        known: records that the caller has from elsewhere.

    Returns:
        The outcome for each table.

    Raises:
        LakeUnavailable: it can't be written.
    """
    aside = folder.parent / f"{folder.name}-damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    return [_table(folder, table, (known or {}).get(table, ()), aside) for table in get_args(Table)]


def fault(folder: Path, table: Table) -> str:
    """Read all records of a table. Returns what is wrong with it, or nothing."""
    lake = EmbeddedLake(folder)
    try:
        for _ in lake.records(table):
            pass
        return ""
    except LakeUnavailable as error:
        return str(error)
    except ValueError as error:
        return f"a record can't be read ({type(error).__name__})"
    finally:
        lake.close()


def _table(folder: Path, table: Table, known: Sequence[Record], aside: Path) -> Repaired:
    lake = EmbeddedLake(folder)
    try:
        problem = fault(folder, table)
        if not problem:
            _complete(lake, folder, table)
            return Repaired(table, "", lake.count(table)[""])
        with lake.writing(table):
            newest = _newest([*_journalled(folder, table), *known])
            aside.mkdir(exist_ok=True)
            old = [path for path in sorted(folder.glob(f"{table}.*")) if path.suffix != ".lock"]
            for path in old:
                path.rename(aside / path.name)
            write_head(folder / f"{table}.json", Head(SCHEMA_VERSION))
            for path in old:
                if path.suffix[1:].isdecimal():
                    (folder / path.name).mkdir()  # a generation's number is never used again: readers may be in the old one
            (folder / "shared.json").unlink(missing_ok=True)  # of a managed lake: everything is compared with the service again
            for first in range(0, len(newest), _BATCH):
                lake.append(table, newest[first : first + _BATCH])
        return Repaired(table, problem, lake.count(table)[""], aside)
    finally:
        lake.close()


def _complete(lake: EmbeddedLake, folder: Path, table: Table) -> None:
    """Write to a damaged journal what it lacks of a sound table."""
    noted = {(record.id, record.version) for record in _journalled(folder, table)}
    if missing := [record.model_dump_json() for record in lake.records(table) if (record.id, record.version) not in noted]:
        journal.write(folder / f"{table}.journal", missing)


def _journalled(folder: Path, table: Table) -> Iterable[Record]:
    for text in journal.read(folder / f"{table}.journal"):
        try:
            yield parse(table, text)
        except ValueError:
            continue  # one line of a member that decompresses and is not ours


def _newest(records: Iterable[Record]) -> list[Record]:
    newest: dict[str, Record] = {}
    for record in records:
        if record.id not in newest or newest[record.id].version < record.version:
            newest[record.id] = record
    return list(newest.values())
