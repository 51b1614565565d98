"""What a slot does all day: the share of its time inside a budget with a full queue, and where the rest goes, part by part.

A few short budgets by default; $AUTORESEARCH_BENCH_LONG takes twelve of a minute, as the aims are meant.
"""

import os
import statistics
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

SHORT = 4, 10.0  # experiments, and their budget in seconds
LONG = 12, 60.0


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    count, budget_s = LONG if os.environ.get("AUTORESEARCH_BENCH_LONG") else SHORT
    root = scratch / "slots"
    create_lab(root, profile="cpu", budget_s=budget_s)
    text = (root / "lab.toml").read_text(encoding="utf-8").replace("slots = 0", "slots = 1")
    (root / "lab.toml").write_text(text, encoding="utf-8")
    settings = lab_settings.load(root)
    state = LabPaths(root).state
    ledger, repo, lake = Ledger(state / "ledger.sqlite"), Repo(root, settings.training.editable), EmbeddedLake(state / "lake")
    champion = repo.champion()
    queued = [
        Experiment(
            id=new_id("e"), commit=champion, base=champion, author="bench", hypothesis="none", seed=n, device="cpu",
            created_at=float(n), reserved_s=1000.0,
        )
        for n in range(count)
    ]  # fmt: skip
    ledger.enqueue(queued, 1e9, None, "r")
    runner = Runner(settings, state, ledger, repo, lake, LocalCompute("cpu", 1, state / "runner.log"))
    ended: list[Experiment] = []
    move = ledger.move

    def watched(id: str, states: list[str], **changes: object) -> Experiment | None:
        moved = move(id, states, **changes)  # type: ignore[arg-type]
        if moved is not None and moved.terminal:
            ended.append(moved)
        return moved

    ledger.move = watched  # type: ignore[method-assign, assignment]

    async def drive() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            while len(ended) < count:  # noqa: ASYNC110
                await anyio.sleep(0.05)
            runner.stopping.set()

    anyio.run(drive)
    lake.close()
    ledger.close()
    return _rows(ended, budget_s)


def _rows(ended: list[Experiment], budget_s: float) -> list[tuple[str, str, str, str, str]]:
    finished = [e for e in ended if e.state == "finished"]
    assert finished, [e.failure for e in ended]
    timings = [e.details["timings"] for e in finished]
    began = min(e.started_at or 0.0 for e in ended)
    over = max((e.finished_at or 0.0) - e.details["timings"].get("score_s", 0.0) for e in ended)
    training = sum(e.details["wall_s"] for e in ended)
    # The first waits for torch
    outside = [(e.finished_at or 0.0) - (e.started_at or 0.0) - e.details["wall_s"] for e in finished if e.started_at != began]
    assert outside, [e.failure for e in ended]
    of = f"{len(ended)} x {budget_s:g} s, one slot"
    if len(finished) < len(ended):
        of += f"; {len(ended) - len(finished)} failed"
    rows = [
        ("a slot's time inside a budget", f"{100 * training / (over - began):.1f} %", of, "", "93 %"),
        ("outside the budget, an experiment", f"{statistics.median(outside):.2f} s", "start to record", "", "4 s"),
    ]
    parts = {"spawn": "spawn_s", "start(), of it": "startup_s", "first step reported": "first_step_s", "scoring": "score_s"}
    for name, key in parts.items():
        rows.append((f"  {name}", f"{statistics.median(t[key] for t in timings):.2f} s", "since spawn" if key != "score_s" else "", "", ""))
    return rows
