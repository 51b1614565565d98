"""Servers, runner and trainings are killed at random while agents work: what was acknowledged is there, once, and all comes to an end.

AUTORESEARCH_KILLS sets how many kills (default 30), AUTORESEARCH_SEED repeats a sequence of them.
"""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult

from server.daemon import stop_runner
from server.models import TERMINAL_STATES
from tests.acceptance.processes import launchers, processes
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KILLS = int(os.environ.get("AUTORESEARCH_KILLS", "30"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))


class Refused(Exception):
    """The lab answered with an error."""


def causes(error: BaseException) -> list[BaseException]:
    return [inner for each in error.exceptions for inner in causes(each)] if isinstance(error, BaseExceptionGroup) else [error]


class Agent:
    """A client that reconnects, and repeats a call that was not answered: what it heard is what it holds the lab to."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.memories: dict[str, str] = {}
        self.commits: dict[str, int] = {}
        self.launches: dict[str, tuple[str, list[str]]] = {}
        self.promoted: list[str] = []
        self._server = StdioServerParameters(
            command=sys.executable, args=["-P", "-m", "server.cli", "serve", str(root)], env=dict(os.environ)
        )
        self._log = root / ".autoresearch" / f"{name}.log"
        self._random = random.Random(f"{SEED} {name}")
        self._n = 0

    async def work(self, stop: anyio.Event) -> None:
        step = 0
        while not stop.is_set():
            try:
                with self._log.open("a") as log:
                    async with Client(stdio_client(self._server, errlog=log)) as client:
                        while not stop.is_set():
                            await [self._remember, self._propose, self._launch, self._remember, self._promote][step % 5](client)
                            step += 1
                            await anyio.sleep(self._random.uniform(0, 0.4))  # an agent thinks
            except Exception as error:  # whatever a dying server does to its client, but not what a living one answered
                for cause in causes(error):
                    if isinstance(cause, Refused):
                        raise cause from None

    async def call(self, client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
        with anyio.fail_after(30):
            result = await client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        if result.is_error:
            raise Refused(f"{tool}: {result.content}")
        return result.structured_content or {}

    async def _remember(self, client: Client) -> None:
        self._n += 1
        text = f"What {self.name} learned, number {self._n}"
        answer = await self.call(client, "write_memory", kind="finding", text=text, author=self.name)
        self.memories[answer["id"]] = text

    async def _propose(self, client: Client) -> None:
        value = self._random.randrange(10**9)
        answer = await self.call(client, "propose_patch", **proposal(value, self.name))
        self.commits[answer["commit"]] = value

    async def _launch(self, client: Client) -> None:
        if len(self.launches) >= 5 or not self.commits:
            return  # enough is queued
        key = f"{self.name}-{len(self.launches)}"
        commit = next(reversed(self.commits))
        answer = await self.call(client, "launch_training", commit=commit, idempotency_key=key * 3, author=self.name)
        self.launches[key * 3] = (commit, answer["experiments"])

    async def _promote(self, client: Client) -> None:
        if self.commits:
            answer = await self.call(client, "promote_commit", commit=next(iter(self.commits)))
            if answer["promoted"]:
                self.promoted.append(answer["champion"])


def proposal(value: int, author: str) -> dict[str, Any]:
    """A change that trains like the stock file, and is code that nobody else proposes."""
    edits = [{"path": "train.py", "search": "SOFTCAP = 15.0", "replace": f"NOTHING = {value}\nSOFTCAP = 15.0"}]
    return {"hypothesis": f"the number {value} changes nothing", "edits": edits, "author": author}


async def kill(root: Path, kills: Counter[str], stop: anyio.Event) -> None:
    """At random instants, one of the processes of a random kind that is there."""
    dice = random.Random(SEED)
    find: dict[str, Callable[[], list[int]]] = {
        "server": lambda: processes(root, "serve"),
        "runner": lambda: processes(root, "runner"),
        "training": lambda: launchers(root),
    }
    while sum(kills.values()) < KILLS:
        await anyio.sleep(dice.uniform(0.05, 1.5))  # the random instant is the test
        kind = dice.choices([*find], [4, 2, 2])[0]
        if victims := find[kind]():
            with suppress(ProcessLookupError):
                os.kill(dice.choice(victims), signal.SIGKILL)
                kills[kind] += 1
    stop.set()


async def test_kills_at_any_instant_lose_nothing_that_was_acknowledged(make_lab: Callable[..., Path]) -> None:
    print(f"\nseed {SEED}")
    root = make_lab(
        "battered", {"budget_s = 1 ": "budget_s = 0.3 ", "level = 0.05": "level = 0.45", "min_replicates = 3": "min_replicates = 2"}
    )
    agents = [Agent(f"agent-{n}", root) for n in range(3)]
    kills: Counter[str] = Counter()
    stop = anyio.Event()
    (root / ".autoresearch").mkdir(exist_ok=True)
    with anyio.fail_after(60 + 10 * KILLS):
        async with anyio.create_task_group() as tasks:
            for agent in agents:
                tasks.start_soon(agent.work, stop)
            tasks.start_soon(kill, root, kills, stop)

    judge = Agent("judge", root)
    with anyio.fail_after(240):
        async with Client(judge._server) as client:
            while True:
                status = await judge.call(client, "get_status")
                if not status["running"] and not status["queued"] and not status["unflushed"]:
                    break
                await anyio.sleep(0.2)
            rows = (await judge.call(client, "query_experiments", limit=200, columns=["id", "commit", "state"]))["rows"]
            assert status["budget"]["reserved_s"] == 0
            assert {row["state"] for row in rows} <= set(TERMINAL_STATES)
            seen = Counter(row["id"] for row in rows)
            acknowledged = {id: commit for agent in agents for commit, ids in agent.launches.values() for id in ids}
            assert dict.fromkeys(acknowledged, 1) == {id: seen[id] for id in acknowledged}
            assert {row["id"]: row["commit"] for row in rows if row["id"] in acknowledged} == acknowledged
            assert max(seen.values()) == 1
            for agent in agents:
                await check(judge, client, agent)
            promoted = [champion for agent in agents for champion in agent.promoted]
            assert status["promotions"] >= len(promoted)
    history = subprocess.run(["git", "-C", str(root), "log", "--format=%H", "research"], capture_output=True, text=True, check=True)  # noqa: ASYNC221
    assert set(promoted) <= set(history.stdout.split())

    until(lambda: stop_runner(root / ".autoresearch") or not processes(root, "runner"))  # one more may have been on its way
    assert processes(root, "serve") == launchers(root) == []
    states = Counter(row["state"] for row in rows)
    heard = {
        "memories": sum(len(agent.memories) for agent in agents),
        "proposals": sum(len(agent.commits) for agent in agents),
        "experiments": len(acknowledged),
        "promotions": len(promoted),
    }
    print(f"killed: {dict(kills)}\nacknowledged: {heard}, lost 0, doubled 0\nended: {dict(states)}")
    assert sum(kills.values()) >= KILLS and heard["memories"] and heard["proposals"] and heard["experiments"]


async def check(judge: Agent, client: Client, agent: Agent) -> None:
    """Everything that this agent heard of is there, once; a repeated launch is the same launch."""
    found: Counter[str] = Counter()
    texts = {}
    for number in range(1, agent._n + 1):
        text = f"What {agent.name} learned, number {number}"
        answer = await judge.call(client, "search_memory", query=text, author=agent.name, limit=50)
        texts |= {memory["id"]: memory["text"] for memory in answer["memories"]}
        if len(texts) > agent._n:
            raise AssertionError("a memory was doubled")
    found.update(texts)
    assert {id: text for id, text in texts.items() if id in agent.memories} == agent.memories
    for commit, value in agent.commits.items():
        twin = await judge.call(client, "propose_patch", **proposal(value, "judge"))
        assert twin["duplicate"] and twin["commit"] == commit and twin["author"] == agent.name
    for key, (commit, ids) in agent.launches.items():
        again = await judge.call(client, "launch_training", commit=commit, idempotency_key=key, author=agent.name)
        assert again["repeated"] and again["experiments"] == ids
