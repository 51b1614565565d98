"""Servers, runner and trainings are killed at random while agents work: what was acknowledged is there, once, and all comes to an end.

Once over a folder, once over the managed tables of a stand-in that is slow, throttles and loses answers; with AUTORESEARCH_REAL_DEEPLAKE=1
and DEEPLAKE_API_KEY once more over Deeplake's service, in tables of its own. AUTORESEARCH_KILLS sets how many kills each (default 8),
AUTORESEARCH_SEED repeats a sequence of them. `make crash-test` prints the tables.
"""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult

from autoresearch_mcp.server.lake.schema import SCHEMA_VERSION
from autoresearch_mcp.server.models import TERMINAL_STATES
from autoresearch_mcp.server.proposals.making import NewRepo
from autoresearch_mcp.server.runner.lock import stop_runner
from autoresearch_mcp.server.runner.schedule import LAB
from tests.acceptance.processes import launchers, processes
from tests.conftest import REAL_DEEPLAKE
from tests.standins.deeplake.server import ORG, TOKEN, DeeplakeStandIn, Faults
from tests.trainings import BAD, GOOD, QUICK
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KILLS = int(os.environ.get("AUTORESEARCH_KILLS", "8"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))
LAUNCHES = 2 if KILLS > 50 else 1  # of an agent's own proposals
REPLICATES = 3  # the fewest that the gate decides by


class Refused(Exception):
    """The lab answered with an error."""


def causes(error: BaseException) -> list[BaseException]:
    return [inner for each in error.exceptions for inner in causes(each)] if isinstance(error, BaseExceptionGroup) else [error]


class Agent:
    """A client that reconnects, and repeats a call that was not answered: what it heard is what it holds the lab to."""

    def __init__(self, name: str, root: Path, first: str = "champion") -> None:
        self.name = name
        self.first = first
        self.memories: dict[str, str] = {}
        self.commits: dict[str, int] = {}
        self.launches: dict[str, tuple[str, str, list[str]]] = {}  # by key: commit, author, experiments
        self.promoted: set[str] = set()
        self.server = StdioServerParameters(
            command=sys.executable, args=["-P", "-m", "autoresearch_mcp.server.cli", "serve", str(root)], env=dict(os.environ)
        )
        self._log = root / ".autoresearch" / f"{name}.log"
        self._random = random.Random(f"{SEED} {name}")
        self.written = 0

    async def work(self, stop: anyio.Event) -> None:
        """A call that was begun is repeated until it is answered, also after `stop`."""
        step, begun = 0, False
        while begun or not stop.is_set():
            try:
                with self._log.open("a", encoding="utf-8") as log:
                    async with Client(stdio_client(self.server, errlog=log)) as client:
                        while begun or not stop.is_set():
                            begun = True
                            await [self._remember, self.propose, self.launch, self._remember, self.promote][step % 5](client)
                            step, begun = step + 1, False
                            await anyio.sleep(self._random.uniform(0, 0.8))  # an agent thinks
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
        self.written += 1
        text = f"What {self.name} learned, number {self.written}"
        answer = await self.call(client, "write_memory", kind="finding", text=text, author=self.name)
        self.memories[answer["id"]] = text

    async def propose(self, client: Client) -> None:
        value = self._random.randrange(10**9)
        answer = await self.call(client, "propose_patch", base=self.first, **proposal(value, self.name))
        self.commits[answer["commit"]] = value

    async def launch(self, client: Client) -> None:
        """Replicates of the first champion, under a key that all agents share; then of proposals, under keys of its own."""
        if not self.launches:
            await self.order(client, self.first, "the-first-champion", "everybody")
        elif len(self.launches) <= LAUNCHES:
            await self.order(client, next(reversed(self.commits)), f"{self.name}-{len(self.launches)}", self.name)

    async def order(self, client: Client, commit: str, key: str, author: str) -> None:
        answer = await self.call(client, "launch_training", commit=commit, replicates=REPLICATES, idempotency_key=key, author=author)
        self.launches[key] = (commit, author, answer["experiments"])

    @property
    def own(self) -> str | None:
        """Its first proposal that it launched."""
        return next((commit for commit, author, _ in self.launches.values() if author == self.name), None)

    async def promote(self, client: Client) -> None:
        for commit, author, _ in list(self.launches.values()):
            if author == self.name:
                answer = await self.call(client, "promote_commit", commit=commit, author=self.name)
                if answer["promoted"] or answer["verdict"]["code"] in ("is_champion", "already_in"):  # it was, when the answer got lost
                    self.promoted.add(answer["champion"])


def proposal(value: int, author: str) -> dict[str, Any]:
    """A change that learns, and is code that nobody else proposes."""
    edits = [{"path": "train.py", "search": BAD, "replace": f"{GOOD}{value:09d}"}]
    return {"hypothesis": f"a smoothing of 0.002 and {value} billionths of a thousandth", "edits": edits, "author": author}


async def kill(root: Path, kills: Counter[str], stop: anyio.Event) -> None:
    """At random instants, one of the processes of a random kind."""
    dice = random.Random(SEED)
    find: dict[str, Callable[[], list[int]]] = {
        "server": lambda: processes(root, "serve"),
        "runner": lambda: processes(root, "runner"),
        "training": lambda: launchers(root),
    }
    while sum(kills.values()) < KILLS:
        kind = dice.choices([*find], [3, 2, 3])[0]
        await anyio.sleep(dice.uniform(0.05, 1.5))  # the random instant is the test
        with anyio.move_on_after(1):  # there may be none for a while: nothing is queued, or one is starting
            while not find[kind]():  # noqa: ASYNC110
                await anyio.sleep(0.02)  # between two looks
            await anyio.sleep(dice.uniform(0, 0.3))  # not always at its start
        if victims := find[kind]():
            with suppress(ProcessLookupError):
                os.kill(dice.choice(victims), signal.SIGKILL)
                kills[kind] += 1
    stop.set()


@pytest.fixture(params=["a folder", "managed tables", *(["Deeplake's service"] if REAL_DEEPLAKE else [])])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeeplakeStandIn | None]:
    """The stand-in that the processes of this test share their log through, or none."""
    print(f"\nlog in {request.param}, seed {SEED}")
    if request.param != "managed tables":
        for name, value in REAL_DEEPLAKE.items() if request.param == "Deeplake's service" else ():
            monkeypatch.setenv(name, value)
        yield None
        return
    service = DeeplakeStandIn(request.getfixturevalue("postgres_dsn"), SEED)
    service.faults = Faults(latency_s=0.02, visible_after_s=0.3, statuses=(429,), chance=0.05, drop_after_commit=0.05, malformed=0.02)
    for name, value in {"API_KEY": TOKEN, "ORG_ID": ORG, "WORKSPACE": "crashes", "API_URL": service.url}.items():
        monkeypatch.setenv(f"DEEPLAKE_{name}", value)
    yield service
    service.close()
    assert service.problems == []


async def test_kills_at_any_instant_lose_nothing_that_was_acknowledged(
    store: DeeplakeStandIn | None, make_lab: Callable[..., Path]
) -> None:
    root = make_lab(
        f"battered-{SEED}",
        {"budget_s = 1 ": "budget_s = 0.3 ", "level = 0.005": "level = 0.2", "max_replicates = 16": "max_replicates = 4"},
        QUICK.replace(GOOD, BAD),  # so that proposals are better beyond noise
    )
    first = NewRepo(root).champion()
    agents = [Agent(f"agent-{n}", root, first) for n in range(3)]
    kills: Counter[str] = Counter()
    stop = anyio.Event()
    with anyio.fail_after(60 + 10 * KILLS):
        async with anyio.create_task_group() as tasks:
            for agent in agents:
                tasks.start_soon(agent.work, stop)
            tasks.start_soon(kill, root, kills, stop)

    judge = Agent("judge", root)
    with anyio.fail_after(240):
        async with Client(judge.server) as client:
            await judge.order(client, first, "after-the-kills", "judge")  # what the first champion lost, nobody could be compared with
            await quiet(judge, client)
            for agent in agents:  # whose trainings may have ended after the last kill
                await agent.promote(client)
            if not any(agent.promoted for agent in agents):  # the kills cost each candidate a replicate
                await decide(judge, client, next((agent for agent in agents if agent.own), agents[0]))
            status = await quiet(judge, client)
            rows = (await judge.call(client, "query_experiments", limit=200, columns=["id", "commit", "state", "author"]))["rows"]
            for agent in agents:
                await check(judge, client, agent)
    check_experiments(rows, {id: commit for agent in [*agents, judge] for commit, _, ids in agent.launches.values() for id in ids})
    if store is not None:
        shared = store.rows("crashes", f"battered_{SEED}_v{SCHEMA_VERSION}_experiments")
        assert {id for id, _ in shared} == {row["id"] for row in rows}
        print(
            f"{'service':12} {len(shared):4}  rows, {len(shared) - len(rows)} of them stored again by a writer that was killed, and seen once"
        )
    assert status["budget"]["reserved_s"] == 0
    moves = git(root, "rev-list", f"{first}..research").split()
    assert set().union(*(agent.promoted for agent in agents)) <= {move[:12] for move in moves}
    assert len(moves) == status["promotions"]  # each is recorded, once

    def gone() -> bool:
        stop_runner(root / ".autoresearch")
        return not processes(root, "runner")  # one more may have been on its way

    until(gone)
    assert processes(root, "serve") == launchers(root) == []
    report(kills, [*agents, judge], rows)


async def decide(judge: Agent, client: Client, agent: Agent) -> None:
    """Have the lab train what a candidate lacks, and ask for it again."""
    while not (commit := agent.own):  # it was never answered in time
        await agent.propose(client)
        await agent.launch(client)
    launch = {"commit": commit, "until": "decided", "idempotency_key": "what-the-kills-cost", "author": judge.name}
    await judge.call(client, "launch_training", **launch)
    await quiet(judge, client)
    trained = await judge.call(client, "launch_training", **launch)
    judge.launches["what-the-kills-cost"] = (commit, judge.name, trained["experiments"])
    await agent.promote(client)


async def quiet(judge: Agent, client: Client) -> dict[str, Any]:
    """The status once everything has ended and is in the lake."""
    while True:
        status = await judge.call(client, "get_status")
        if not any(status.get(rest) for rest in ("running", "queued", "unflushed")):
            return status
        await anyio.sleep(0.2)  # between two looks: that the lake has all is no event


def check_experiments(rows: list[dict[str, Any]], acknowledged: dict[str, str]) -> None:
    """All have ended, each is there once, and each that was acknowledged is of the commit that was asked for. The lab adds the champion's."""
    assert {row["state"] for row in rows} <= set(TERMINAL_STATES)
    assert max(Counter(row["id"] for row in rows).values()) == 1
    asked = {row["id"]: row["commit"] for row in rows if row["author"] != LAB}
    assert asked == {id: commit[:12] for id, commit in acknowledged.items()}  # a launch that was not answered was repeated until it was


async def check(judge: Agent, client: Client, agent: Agent) -> None:
    """Everything that this agent heard of is there, once; a repeated launch is the same launch."""
    stored: list[tuple[str, str]] = []
    for number in range(1, agent.written + 1):
        text = f"What {agent.name} learned, number {number}"
        answer = await judge.call(client, "search_memory", query=text, author=agent.name, limit=50)
        stored += [(memory["id"], text) for memory in answer["memories"] if memory["text"] == text]
    assert len(dict(stored)) == len(stored)
    assert agent.memories.items() <= dict(stored).items()
    for commit, value in agent.commits.items():
        twin = await judge.call(client, "propose_patch", base=agent.first, **proposal(value, "judge"))
        assert twin["duplicate"] and twin["commit"] == commit and twin["author"] == agent.name
    for key, (commit, author, ids) in agent.launches.items():
        again = await judge.call(client, "launch_training", commit=commit, replicates=REPLICATES, idempotency_key=key, author=author)
        assert again["repeated"] and again["experiments"] == ids


def report(kills: Counter[str], agents: list[Agent], rows: list[dict[str, Any]]) -> None:
    """What was killed and what was acknowledged: the checks before this found all of it again, once."""
    heard = {
        "memories": sum(len(agent.memories) for agent in agents),
        "proposals": sum(len(agent.commits) for agent in agents),
        "experiments": len({id for agent in agents for *_, ids in agent.launches.values() for id in ids}),
        "promotions": len(set().union(*(agent.promoted for agent in agents))),
    }
    print(f"{'killed':12} {sum(kills.values()):4}  " + ", ".join(f"{kind} {n}" for kind, n in kills.items()))
    for kind, n in heard.items():
        print(f"{kind:12} {n:4}  acknowledged, 0 lost, 0 doubled")
    print(f"{'ended':12} {len(rows):4}  " + ", ".join(f"{state} {n}" for state, n in Counter(row["state"] for row in rows).items()))
    assert sum(kills.values()) >= KILLS and all(heard.values())


def git(root: Path, *command: str) -> str:
    return subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=True).stdout
