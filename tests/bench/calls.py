"""A get_status call on a lab with 1,000 finished experiments, against a bare server's bare tool, over stdio."""

import statistics
import time
from pathlib import Path

import anyio
from mcp.client import Client

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.runner.lock import stop_runner
from tests.bench.servers import BARE, ours

CALLS = 300
EXPERIMENTS = 1000


def fill(root: Path, experiments: int) -> None:
    """Ended experiments of the champion and of commits that never were, flushed to the lake."""
    lab = Lab(root)
    champion = lab.status().champion.commit
    ledger = Ledger(root / ".autoresearch" / "ledger.sqlite")
    batch = []
    for n in range(experiments):
        commit = champion if n < 3 else f"{n // 3:040x}"
        batch.append(
            Experiment(
                id=new_id("e"), commit=commit, base=champion, author="bench", hypothesis=f"idea {n // 3}", seed=n, device="cpu",
                created_at=time.time(), reserved_s=1.0,
            )
        )  # fmt: skip
    ledger.enqueue(batch, 1e9, None, "r")
    for n, e in enumerate(batch):
        ledger.move(e.id, ["queued"], state="finished", val_bpb=1.6 + n % 7 / 1000, conditions="k", started_at=1.0, finished_at=time.time())
    while lab.status().unflushed:  # wakes the runner, which flushes
        time.sleep(0.2)
    lab.close()
    ledger.close()


async def _calls(root: Path) -> tuple[list[float], list[float]]:
    mine, bare = [], []
    async with Client(ours(root)) as client, Client(BARE) as yardstick:
        for n in range(CALLS + 20):
            began = time.perf_counter()
            await yardstick.call_tool("nothing", {})
            between = time.perf_counter()
            await client.call_tool("get_status", {})
            ended = time.perf_counter()
            if n >= 20:
                bare.append(between - began)
                mine.append(ended - between)
    return mine, bare


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    root = scratch / "calls"
    create_lab(root, profile="tiny")
    fill(root, EXPERIMENTS)
    mine, bare = anyio.run(_calls, root)
    stop_runner(root / ".autoresearch")
    a, b = statistics.median(mine), statistics.median(bare)
    return [(f"get_status, {EXPERIMENTS:,} experiments", f"{a * 1e3:.2f} ms", f"{b * 1e3:.2f} ms (bare tool)", f"{a / b:.2f}", "3")]
