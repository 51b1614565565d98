"""Eight agents press the gate through the tools, with ideas that are no better: how many become champion.

    python -m tests.bench.lab_adversaries [IDEAS DRIFT]

Real tools over MCP, real ledger, gate and runner; trainings are drawn. Each agent has a habit of its own:

- `asks`: trains one replicate after another up to the last that counts, and asks after each.
- `copies`: proposes each idea four times under other names, and trains and asks for all.
- `cancels`: launches two at once, and cancels the second where the first looks bad.
- `borrows`: asks for others' candidates as well, whenever it asks for its own.
"""

import itertools
import math
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from mcp import Client

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner
from tests.bench.lab_campaign import LAUNCHER

HABITS = ("asks", "copies", "cancels", "borrows")
AGENTS, SLOTS, MOST = 8, 8, 16
SHORT = 24, 0.7  # ideas, share of the variance that drifts
COPIES = ("", "\nUNUSED = 1\n", "\n# the same\n", "\ndef nothing() -> None:\n    pass\n")


@dataclass
class Pressed:
    """What the agents did and got."""

    ideas: int = 0
    asked: int = 0
    promoted: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    commits: dict[str, str] = field(default_factory=dict)  # candidates, with who proposed them

    @property
    def per_100(self) -> float:
        """Promotions of 100 ideas."""
        return 100 * len(self.promoted) / self.ideas


class Agent:
    """One agent that wants a promotion more than it wants to be right."""

    def __init__(self, number: int, client: Client, pressed: Pressed) -> None:
        self.name, self.habit = f"agent-{number}", HABITS[number % len(HABITS)]
        self._client, self._pressed = client, pressed

    async def press(self, idea: int) -> None:
        """Do all it can for one idea."""
        self._pressed.ideas += 1
        for copy in COPIES if self.habit == "copies" else COPIES[:1]:
            text = f'NAME = "idea {idea}"\nGAIN = 0.0\nprint(NAME, GAIN)\n{copy}'
            files = {f"ideas/idea_{idea}.py": text}
            proposed = await self._call("propose_patch", hypothesis=f"Idea {idea} is another one.", files=files)
            if proposed:
                self._pressed.commits.setdefault(proposed["commit"], self.name)
                await self._train(proposed["commit"])

    async def _train(self, commit: str) -> None:
        for count in itertools.count(1):
            launched = await self._call("launch_training", commit=commit, replicates=2 if self.habit == "cancels" else 1, confirm=True)
            if not launched:
                return
            first, *rest = launched["experiments"]
            value = await self._result(first)
            if rest and value is not None and value > 1.5:
                await self._call("cancel_experiment", ids=rest)
            for id in rest:
                await self._result(id)
            others = [each for each, by in self._pressed.commits.items() if by != self.name] if self.habit == "borrows" else []
            for each in (commit, *others[-3:]):
                await self._ask(each)
            if commit in self._pressed.promoted or count >= MOST:
                return

    async def _ask(self, commit: str) -> None:
        self._pressed.asked += 1
        answer = await self._call("promote_commit", commit=commit)
        if answer and answer["promoted"]:
            self._pressed.promoted.append(commit)

    async def _result(self, id: str) -> float | None:
        while True:
            waited = await self._call("wait_for_experiments", ids=[id], timeout_s=20)
            if waited is None or waited["done"]:
                break
        got = await self._call("get_experiment", id=id)
        value = got["experiment"].get("val_bpb") if got else None
        return None if value is None else float(value)

    async def _call(self, tool: str, **arguments: Any) -> dict[str, Any] | None:
        """Return the answer; None if the lab refused, which is counted."""
        if tool not in ("get_experiment", "wait_for_experiments"):
            arguments["author"] = self.name
        result = await self._client.call_tool(tool, arguments)
        if result.is_error:
            (content,) = result.content
            self._pressed.refused[f"{tool}: {getattr(content, 'text', '')[:60]}"] += 1
            return None
        return result.structured_content or {}


def press(root: Path, ideas: int, drift: float) -> Pressed:
    """Let the agents at a new lab."""
    create_lab(root, profile="tiny", budget_s=1.0)
    text = (root / "lab.toml").read_text(encoding="utf-8")
    for old, new in {
        "slots = 0": f"slots = {SLOTS}",
        "device_hours = 8.0": "device_hours = 1e5",
        'editable = ["train.py"]': 'editable = ["train.py", "ideas/**"]',
    }.items():
        assert old in text
        text = text.replace(old, new)
    (root / "lab.toml").write_text(text, encoding="utf-8")
    with runner_lock(LabPaths(root).state):  # so that a call starts no runner
        return anyio.run(_press, root, ideas, drift)


async def _press(root: Path, ideas: int, drift: float) -> Pressed:
    settings, state = lab_settings.load(root), LabPaths(root).state
    lab, ledger, lake = Lab(root), Ledger(state / "ledger.sqlite"), EmbeddedLake(state / "lake")
    compute = LocalCompute("tiny", 1, state / "runner.log", command=(sys.executable, str(LAUNCHER), "0.1", str(drift)))
    runner = Runner(settings, state, ledger, Repo(root, settings.training.editable), lake, compute)
    pressed = Pressed()

    async def work(number: int) -> None:
        async with Client(build_server(lab)) as client:
            agent = Agent(number, client, pressed)
            for idea in range(number, ideas, AGENTS):
                await agent.press(idea)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, 1e9)
        async with anyio.create_task_group() as agents:
            for number in range(AGENTS):
                agents.start_soon(work, number)
        runner.stopping.set()
    for store in (lab, lake, ledger):
        store.close()
    return pressed


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Return the row for the table of `make bench`."""
    ideas, drift = SHORT
    pressed = press(scratch / "adversaries", ideas, drift)
    of = f"{ideas} ideas, {pressed.asked} questions"
    return [("8 agents press the gate over MCP: promoted", f"{len(pressed.promoted)}", of, "", "<= 0.5 per 100 ideas")]


def main() -> None:
    ideas, drift = [float(text) for text in sys.argv[1:3]] or SHORT
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        pressed = press(Path(scratch) / "adversaries", int(ideas), drift)
    error = 100 * math.sqrt(max(1, len(pressed.promoted))) / pressed.ideas
    print(
        f"{pressed.ideas} ideas, {pressed.asked} questions, promoted {len(pressed.promoted)}: {pressed.per_100:.2f} of 100, +- {error:.2f}"
    )
    print(*(f"{n:5} x {why}" for why, n in pressed.refused.most_common(8)), f"{time.monotonic() - began:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
