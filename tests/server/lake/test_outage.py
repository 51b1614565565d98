"""Two labs on two machines share one log through a service that goes away for ten minutes, told a hundred times faster.

Over the MCP surface and real runners: no call hangs, agents read their own writes all the time and are told how far behind the
shared log is, and afterwards both machines know everything, once.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import CallToolResult

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake import open_lake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner
from tests.server.runner.test_loop import NOOP
from tests.standins.deeplake.server import ORG, TOKEN, DeeplakeStandIn, Faults

OUTAGE_S = 6.0
LONGEST_S = 3.0  # of a call; READ_S below is a third of a second, the rest is for a machine that is busy

WEATHER = [  # what the service does, and for which share of the outage
    (Faults(down=True), 0.4),
    (Faults(hang_s=0.8), 0.3),
    (Faults(statuses=(429, 500, 502, 503, 504), chance=1.0), 0.3),
]
STORMY = Faults(0.01, 0.3, statuses=(429, 503), chance=0.2, drop_after_commit=0.2, malformed=0.1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def a_hundred_times_faster(deeplake: DeeplakeStandIn, workspace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"API_KEY": TOKEN, "ORG_ID": ORG, "WORKSPACE": workspace, "API_URL": deeplake.url}.items():
        monkeypatch.setenv(f"DEEPLAKE_{name}", value)
    for name, pause in {
        "managed.service.BACKOFF_S": (0.01, 0.05),
        "managed.service.ATTEMPT_S": 0.5,
        "managed.store.SYNC_EVERY_S": 0.05,
        "managed.store.AWAY_S": (0.05, 0.6),
        "managed.store.READ_S": 0.3,
        "managed.store.WRITE_S": 1.0,
        "managed.store.HOLD_S": 1.5,
    }.items():
        monkeypatch.setattr(f"autoresearch_mcp.server.lake.{name}", pause)
    monkeypatch.setattr("autoresearch_mcp.server.runner.flushing.FLUSH_EVERY_S", 0.05)
    monkeypatch.setattr("autoresearch_mcp.server.runner.flushing.LAKE_RETRY_S", (0.01, 0.6))


class Machine:
    """A lab with its runner and an agent's client in this process."""

    def __init__(self, name: str, client: Client, ledger: Ledger) -> None:
        self.name = name
        self.ledger = ledger
        self.notes: list[str] = []
        self.trained: list[str] = []
        self.longest = 0.0
        self._client = client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        began = time.monotonic()
        with anyio.fail_after(30):
            result = await self._client.call_tool(tool, arguments)
        self.longest = max(self.longest, time.monotonic() - began)
        assert isinstance(result, CallToolResult) and not result.is_error, result
        return result.structured_content or {}

    async def work(self) -> list[str]:
        """One turn of an agent, which reads its own writes. Returns what it was told of the shared log."""
        number = len(self.notes)
        note = await self.call("write_memory", kind="finding", text=f"what {self.name} learned, number n{number}", author=self.name)
        self.notes.append(note["id"])
        if number % 4 == 0:
            launched = await self.call("launch_training", commit="champion", author=self.name)
            self.trained += launched["experiments"]
        hits = await self.call("search_memory", query=f"n{number} learned", author=self.name)
        assert hits["memories"][0]["id"] == note["id"]
        rows = await self.call("query_experiments", author=self.name, limit=200)
        assert sorted(row["id"] for row in rows["rows"]) == sorted(self.trained)
        counted = await self.call("query_experiments", sql=f"SELECT count(*) AS n FROM memories WHERE author = '{self.name}'")
        assert counted["rows"] == [{"n": len(self.notes)}]
        await self.call("get_experiment", id=self.trained[0])
        status = await self.call("get_status")
        return [hits["note"], rows["note"], *status["warnings"]]


@asynccontextmanager
async def machine(name: str, root: Path) -> AsyncIterator[Machine]:
    settings, state = lab_settings.load(root), LabPaths(root).state
    lab = Lab(root)
    ledger, lake = Ledger(state / "ledger.sqlite"), open_lake(settings, state)
    runner = Runner(settings, state, ledger, Repo(root), lake, LocalCompute("tiny", 1, state / "runner.log", command=NOOP))
    with runner_lock(state, patience_s=5) as mine:
        assert mine
        async with anyio.create_task_group() as tasks, Client(build_server(lab)) as client:
            tasks.start_soon(runner.run, 3600.0)
            yield Machine(name, client, ledger)
            runner.stopping.set()
    lake.close()
    lab.close()
    ledger.close()


async def settled(*machines: Machine) -> None:
    """Every experiment has ended, and every record was read back from the service."""
    with anyio.fail_after(60):
        while any(each.ledger.unflushed() or each.ledger.open_experiments() for each in machines):  # noqa: ASYNC110
            await anyio.sleep(0.05)


async def knows(each: Machine, notes: int, trained: int) -> None:
    """The machine has seen what the other one added."""
    count = "SELECT (SELECT count(*) FROM memories) AS notes, (SELECT count(*) FROM experiments) AS trained"
    with anyio.fail_after(30):
        while (await each.call("query_experiments", sql=count))["rows"] != [{"notes": notes, "trained": trained}]:  # noqa: ASYNC110
            await anyio.sleep(0.05)


@pytest.mark.anyio
async def test_an_outage_loses_nothing_doubles_nothing_and_hangs_no_call(
    make_lab: Callable[..., Path], deeplake: DeeplakeStandIn, workspace: str
) -> None:
    log = {'backend = "auto"                # where the log': 'tables = "shared_"\nbackend = "auto"                # where the log'}
    async with machine("here", make_lab("here", log)) as here, machine("there", make_lab("there", log)) as there:
        for each in (here, there):
            await each.work()
        await settled(here, there)
        for faults, share in WEATHER:
            deeplake.faults = faults
            ends = time.monotonic() + share * OUTAGE_S
            warnings = [[""]]
            while time.monotonic() < ends or len(warnings) < 5:  # two turns, however slow the machine is
                warnings += [await here.work(), await there.work()]
            assert any("The shared log was last read" in text and "ago" in text for text in warnings[-1]), warnings[-1]
        assert here.ledger.unflushed() > 3 and there.ledger.unflushed() > 3
        assert max(here.longest, there.longest) < LONGEST_S
        deeplake.faults = STORMY
        await settled(here, there)
        deeplake.faults = Faults()
        notes, trained = sorted(here.notes + there.notes), sorted(here.trained + there.trained)
        await knows(here, len(notes), len(trained))
        await knows(there, len(notes), len(trained))
        for each in (here, there):
            rows = (await each.call("query_experiments", sql="SELECT id FROM memories ORDER BY id", limit=200))["rows"]
            assert [row["id"] for row in rows] == notes[:200]
            assert sorted(row["id"] for row in (await each.call("query_experiments", limit=200))["rows"]) == trained
            assert (await each.call("search_memory", query="learned"))["note"] == ""
        assert [id for id, _ in deeplake.rows(workspace, "shared_v5_memories")] == notes
        assert [id for id, _ in deeplake.rows(workspace, "shared_v5_experiments")] == trained
