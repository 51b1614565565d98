"""Answers over a long log, end to end through a warm server, and what a month of flushes does to the folder.

AUTORESEARCH_BENCH_ROWS: experiments, and as many memories, of each size (default 1000,10000; by hand also 100000).
AUTORESEARCH_BENCH_FLUSHES: how many flushes of one record are simulated (default 500; 3000 is a month of 100 a day).
"""

import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lake import open_lake
from autoresearch_mcp.server.lake.embedded import dataset
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.models import Experiment, Memory, Record, Table
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import stop_runner
from autoresearch_mcp.server.search.embedding import open_embedder
from tests.bench.servers import ours

SIZES = [int(size) for size in os.environ.get("AUTORESEARCH_BENCH_ROWS", "1000,10000").split(",")]
FLUSHES = int(os.environ.get("AUTORESEARCH_BENCH_FLUSHES", "500"))
CALLS = 40
_BATCH = 2_000
_VOCABULARY = (
    "muon adam learning rate warmup decay batch width depth heads rotary tied embedding norm relu gelu dropout clip momentum nesterov "
    "window attention value residual skip init scale logit softcap loss seed noise schedule cosine linear cooldown weight token"
)

Row = tuple[str, str, str, str, str]
_SQL = "SQL, counted by state"  # it copies the column, so it takes time with the rows
_QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "by id": ("get_experiment", {}),
    "filter, order, limit": ("query_experiments", {"state": ["finished"], "max_val_bpb": 1.2, "order_by": "val_bpb", "descending": False}),
    "text of hypotheses": ("query_experiments", {"text": "cosine cooldown"}),
    "search_memory": ("search_memory", {"query": "muon learning rate warmup"}),
    "search_memory, filtered": ("search_memory", {"query": "muon learning rate warmup", "kind": "failure", "tag": "t7"}),
    _SQL: ("query_experiments", {"sql": "SELECT state, count(*) AS n FROM experiments GROUP BY state"}),
}


def _record(table: Table, n: int, dice: random.Random) -> Record:
    text = " ".join(dice.choices(_VOCABULARY.split(), k=14))
    if table == "memories":
        kind = dice.choice(["finding", "failure", "idea", "insight"])
        return Memory(
            id=_id("m", n),
            kind=kind,
            text=f"{text}, note {n}",
            author=f"a{n % 5}",
            tags=[f"t{n % 20}"],
            created_at=1e9 + n,
            experiments=[_id("e", n)],
        )
    return Experiment(
        id=_id("e", n), commit=f"{n // 3:040x}", base="0" * 40, author=f"a{n % 5}", hypothesis=f"{text} {n // 3}", tags=[f"t{n % 20}"], seed=n,
        state=dice.choice(["finished", "finished", "finished", "crashed"]), device="cpu", conditions="k", created_at=1e9 + n,
        started_at=1e9 + n, finished_at=1e9 + n + 60, reserved_s=0.0, cost_s=60.0, val_bpb=1 + dice.random(), version=4,
        details={"steps": 900, "peak_memory_mb": 512.0, "torch": "2.13.0"}, curve=[(i / 40, 3 - i / 40) for i in range(40)],
        log_tail="".join(f"step {i} loss {dice.random():.6f}\n" for i in range(25)),
    )  # fmt: skip


def _id(prefix: str, n: int) -> str:
    return f"{prefix}-{n:015d}"


def _fill(root: Path, rows: int) -> tuple[float, int]:
    """Returns the seconds that it took, and the bytes that the records themselves have."""
    settings = lab_settings.load(root)
    lake = open_lake(settings, LabPaths(root).state, open_embedder(settings.embeddings))
    dice, size, began = random.Random(1), 0, time.perf_counter()
    for table in ("experiments", "memories"):
        for first in range(0, rows, _BATCH):
            batch = [_record(table, n, dice) for n in range(first, min(rows, first + _BATCH))]  # type: ignore[arg-type]
            size += sum(len(record.model_dump_json()) for record in batch)
            lake.append(table, batch)  # type: ignore[arg-type]
    lake.close()
    return time.perf_counter() - began, size


async def _ask(roots: dict[int, Path]) -> dict[int, dict[str, float]]:
    """The median of each question by size, in ms, the sizes in turn; the first answers warm the servers up."""
    took: dict[tuple[int, str], list[float]] = {}
    dice = random.Random(2)
    async with AsyncExitStack() as stack:
        clients = {rows: await stack.enter_async_context(Client(ours(root), read_timeout_seconds=120)) for rows, root in roots.items()}
        for call in range(CALLS + 2):
            for name, (tool, arguments) in _QUESTIONS.items():
                for rows, client in clients.items():
                    began = time.perf_counter()
                    result = await client.call_tool(tool, arguments or {"id": _id("e", dice.randrange(rows))})
                    assert not result.is_error, result.content
                    if call >= 2:
                        took.setdefault((rows, name), []).append((time.perf_counter() - began) * 1e3)
    return {rows: {name: statistics.median(took[rows, name]) for name in _QUESTIONS} for rows in roots}


def _size(folder: Path) -> tuple[int, int]:
    """Files and bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def _month(scratch: Path) -> list[Row]:
    """One record a flush. Retired generations are aged, as they would have in a month."""
    folder = scratch / "month"
    lake = EmbeddedLake(folder)
    dice = random.Random(3)
    took: list[float] = []
    sizes: list[tuple[int, int]] = []
    for n in range(FLUSHES):
        began = time.perf_counter()
        lake.append("experiments", [_record("experiments", n, dice)])
        lake.present("experiments", [_id("e", n)])
        took.append((time.perf_counter() - began) * 1e3)
        for retired in folder.glob("experiments.*/"):
            os.utime(retired, (0, 0))
        sizes.append(_size(folder) if n % dataset.MOST_COMMITS == dataset.MOST_COMMITS - 1 or FLUSHES < 100 else (0, 0))
    lake.close()
    tenth = FLUSHES // 10
    first, last = took[:tenth], took[-tenth:]
    files = [count for count, _ in sizes if count]
    each = [size / (n + 1) / 1024 for n, (_, size) in enumerate(sizes) if size]
    title = f"{FLUSHES:,} flushes of a record"
    return [
        (f"{title}: median of a flush", f"{_ms(last)} at the end", f"{_ms(first)} at first", f"{statistics.median(last) / statistics.median(first):.1f}", ""),
        (f"{title}: longest", f"{max(last):.0f} ms at the end", f"{max(first):.0f} ms at first", f"{max(last) / max(first):.1f}", ""),
        (f"{title}: files, KB a record", f"{files[-1]}, {each[-1]:.1f} at the end", f"{files[0]}, {each[0]:.1f} at first", f"{files[-1] / files[0]:.1f}", ""),
    ]  # fmt: skip


def _ms(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ms"


def _sizes(scratch: Path) -> Iterator[Row]:
    roots = {rows: scratch / f"log-{rows}" for rows in SIZES}
    for rows, root in roots.items():
        create_lab(root, profile="tiny")
        took, size = _fill(root, rows)
        _, disk = _size(LabPaths(root).lake)
        beside = (disk - size) / (2 * rows)
        yield (
            f"disk beside the record, {rows:,} rows",
            f"{beside:.0f} bytes a row",
            f"{size / rows / 2:.0f} bytes (the record)",
            "",
            "2,048",
        )
        yield f"filling, {rows:,} rows", f"{took / rows / 2 * 1e3:.2f} ms a row", f"batches of {_BATCH:,}", "", ""
    answers = anyio.run(_ask, roots)
    smallest = answers[SIZES[0]]
    for name in _QUESTIONS:
        for rows in SIZES:
            ms = answers[rows][name]
            yield (
                f"{name}, {rows:,} rows",
                f"{ms:.1f} ms",
                f"{smallest[name]:.1f} ms ({SIZES[0]:,} rows)",
                f"{ms / smallest[name]:.1f}",
                "50 ms; 4" if name != _SQL else "linear",
            )
    for root in roots.values():
        stop_runner(LabPaths(root).state)
        shutil.rmtree(root)


def measure(scratch: Path) -> Iterator[Row]:
    yield from _sizes(scratch)
    yield from _month(scratch)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for line in measure(Path(folder)):
            print(json.dumps(line), flush=True)
