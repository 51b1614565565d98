"""How busy eight agents keep a lab's slots, though each thinks 30 to 120 s before an idea.

Nothing is trained: a launcher waits for as long as a training of 300 s takes at this scale. Each agent goes on to its next idea while its last
one waits or trains, as the contract says, and stops at two of its own. $AUTORESEARCH_BENCH_LONG takes more ideas, at a third of the scale.
"""

import os
import random
import sys
from pathlib import Path
from typing import Any

import anyio

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner

LAUNCHER = Path(__file__).with_name("drawing_launcher.py")
AGENTS, SLOTS, OPEN = 8, 4, 2  # of the lab; of one agent: ideas that wait or train
TRAINING_S, THINKS_S = 300.0, (30.0, 120.0)
SHORT, LONG = (32, 30.0), (96, 10.0)  # ideas, and by what times are divided


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Return the row."""
    ideas, scale = LONG if os.environ.get("AUTORESEARCH_BENCH_LONG") else SHORT
    busy = anyio.run(_campaign, scratch / "thinking", ideas, scale)
    what = f"{ideas} ideas of {TRAINING_S:g} s, {SLOTS} slots; times divided by {scale:g}"
    return [("slots busy, 8 agents that think 30 to 120 s", f"{100 * busy:.1f} %", what, "", "97 %")]


async def _campaign(root: Path, ideas: int, scale: float) -> float:
    create_lab(root, profile="tiny", budget_s=1.0)
    text = (root / "lab.toml").read_text(encoding="utf-8").replace("slots = 0", f"slots = {SLOTS}")
    (root / "lab.toml").write_text(text, encoding="utf-8")
    settings, state, lab = lab_settings.load(root), LabPaths(root).state, Lab(root)
    ledger, lake = Ledger(state / "ledger.sqlite"), EmbeddedLake(state / "lake")
    compute = LocalCompute("tiny", 1, state / "runner.log", command=(sys.executable, str(LAUNCHER), str(TRAINING_S / scale), "0"))
    runner = Runner(settings, state, ledger, Repo(root, settings.training.editable), lake, compute)
    numbers = iter(range(ideas))
    with runner_lock(state):  # so that a call starts no runner
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, 1e9)
            async with anyio.create_task_group() as agents:
                for agent in range(AGENTS):
                    agents.start_soon(_agent, lab, f"agent-{agent}", numbers, scale)
            runner.stopping.set()
    rows = list(ledger.ended([start.experiment for start in ledger.starts(10**6)]).values())
    lake.close()
    ledger.close()
    lab.close()
    return _busy(rows)


async def _agent(lab: Lab, name: str, numbers: Any, scale: float) -> None:
    dice, own = random.Random(name), list[str]()
    for number in numbers:
        await anyio.sleep(dice.uniform(*THINKS_S) / scale)
        edits = [{"path": "train.py", "search": "UNEMBEDDING_LR = 0.004", "replace": f"UNEMBEDDING_LR = 0.00400{number + 1:04d}"}]
        answer = await anyio.to_thread.run_sync(lambda: lab.propose_patch(f"Rate number {number} is another.", name, edits=edits, launch=1))  # noqa: B023
        own += [line.id for line in answer.launched]
        await _until_fewer(lab, own, OPEN)
    await _until_fewer(lab, own, 1)


async def _until_fewer(lab: Lab, own: list[str], most: int) -> None:
    """Wait until fewer than so many of these experiments are open."""
    while sum(line.state in ("queued", "starting", "running", "scoring") for line in lab.states(own)) >= most:  # noqa: ASYNC110
        await anyio.sleep(0.1)


def _busy(rows: list[dict[str, Any]]) -> float:
    """The share of the slots' time that trainings held them, from when all had been taken once to the last start."""
    starts = sorted(row["started_at"] for row in rows)
    begin, end = starts[SLOTS - 1], starts[-1]
    held = sum(max(0.0, min(row["finished_at"], end) - max(row["started_at"], begin)) for row in rows)
    return float(held / (SLOTS * (end - begin)))
