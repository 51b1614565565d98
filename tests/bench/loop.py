"""Measure what the loop adds to an experiment: queue, start, record and flush, with a launcher that trains nothing, one slot."""

import sys
import time
from pathlib import Path

import anyio

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.loop import Runner

EXPERIMENTS = 40
QUEUED = 1000  # a long queue, behind those that are timed


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Return the loop's time an experiment, and the same with a long queue behind it as a ratio."""
    short, long = _each_s(scratch / "loop", EXPERIMENTS), _each_s(scratch / "loop-queue", QUEUED)
    return [
        ("loop overhead an experiment", f"{short * 1e3:.0f} ms", "a no-op trainer", "", "200 ms"),
        (f"the same, {QUEUED} queued", f"{long * 1e3:.0f} ms", f"{EXPERIMENTS} queued", f"{long / short:.2f}", "1.1"),
    ]


def _each_s(root: Path, queued: int) -> float:
    """Return the seconds an experiment took, of the first `EXPERIMENTS` of a queue."""
    create_lab(root, profile="tiny")
    text = (root / "lab.toml").read_text(encoding="utf-8").replace("slots = 0", "slots = 1")
    (root / "lab.toml").write_text(text, encoding="utf-8")
    settings = lab_settings.load(root)
    state = LabPaths(root).state
    state.mkdir(exist_ok=True)
    ledger, repo, lake = Ledger(state / "ledger.sqlite"), Repo(root, settings.training.editable), EmbeddedLake(state / "lake")
    compute = LocalCompute("tiny", 1, state / "runner.log", command=(sys.executable, str(Path(__file__).with_name("noop_launcher.py"))))
    champion = repo.champion()
    ledger.enqueue(
        [
            Experiment(
                id=new_id("e"), commit=champion, base=champion, author="bench", hypothesis="none", seed=n, device="cpu",
                created_at=float(n), reserved_s=1.0,
            )
            for n in range(queued)
        ],
        1e9,
        None,
        "r",
    )  # fmt: skip
    runner = Runner(settings, state, ledger, repo, lake, compute)

    async def drive() -> float:
        async with anyio.create_task_group() as tasks:
            began = time.perf_counter()
            tasks.start_soon(runner.run)
            while ledger.counts().get("finished", 0) < EXPERIMENTS:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            took = time.perf_counter() - began
            runner.stopping.set()
        return took

    took = anyio.run(drive)
    lake.close()
    ledger.close()
    return took / EXPERIMENTS
