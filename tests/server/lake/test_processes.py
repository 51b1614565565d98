"""Several servers and the runner at once on one lab: each reads its own writes at once, and no row is ever seen twice or vanishes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lake import open_lake
from autoresearch_mcp.server.lake.base import Query
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Record, Table
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner
from tests.server.runner.test_loop import NOOP
from tests.waiting import until

SERVERS = 3
FLUSHES = 20

# What a server does for its agent, without the wire between them.
SERVER = """
import json, sys
from pathlib import Path
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lab.query import ExperimentQuery

root, name, enough = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
lab = Lab(root)
notes, trained, number = [], [], 0
while number < 3 or not enough.exists():
    number += 1
    text = f"what {name} learned, as number n{number}"
    notes.append(lab.write_memory("finding", text, name).id)
    if number % 3 == 0:
        trained += lab.launch_training("champion", name).experiments
    hits = [hit.id for hit in lab.search_memory(f"n{number} learned", author=name, limit=50).memories]
    assert hits[0] == notes[-1] and len(hits) == len(set(hits)) == min(50, len(notes)), ("search_memory", hits)
    listed, more = [], True
    while more:
        sql = f"SELECT id FROM memories WHERE author = '{name}' ORDER BY id LIMIT 200 OFFSET {len(listed)}"
        more = [row["id"] for row in lab.query_experiments(ExperimentQuery(sql=sql, limit=200)).rows]
        listed += more
    assert sorted(listed) == notes, ("sql", set(notes) ^ set(listed), len(listed))
    pages, cursor = [], None
    while True:
        page = lab.query_experiments(ExperimentQuery(author=name, limit=7, cursor=cursor))
        pages += [row["id"] for row in page.rows]
        if (cursor := page.next_cursor) is None:
            break
    assert sorted(pages) == sorted(trained), ("pages", set(pages) ^ set(trained), len(pages))
    assert lab.query_experiments(ExperimentQuery(author=name, group_by="state")).matched == len(trained)
    if trained:
        assert lab.get_experiment(trained[number % len(trained)]).experiment.author == name
lab.close()
print(json.dumps([notes, trained]))
"""


class Counting(EmbeddedLake):
    """A lake that counts what it took."""

    flushes = 0

    def append(self, table: Table, records: list[Record]) -> None:  # type: ignore[override]
        super().append(table, records)
        self.flushes += 1


def test_servers_see_every_row_once_while_the_runner_flushes(make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.runner.flushing.FLUSH_EVERY_S", 0.05)
    monkeypatch.setattr("autoresearch_mcp.server.lake.embedded.dataset.MOST_COMMITS", 10)  # and rewrites the tables
    root = make_lab()
    state = root / ".autoresearch"
    settings = lab_settings.load(root)
    state.mkdir(exist_ok=True)
    enough = root / "enough"
    ledger, lake = Ledger(state / "ledger.sqlite"), Counting(state / "lake")
    runner = Runner(settings, state, ledger, Repo(root), lake, LocalCompute("tiny", 1, state / "runner.log", command=NOOP))

    async def together() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, 3600.0)
            await anyio.to_thread.run_sync(watch)
            runner.stopping.set()

    def watch() -> None:
        try:
            until(lambda: lake.flushes >= FLUSHES or any(server.poll() is not None for server in servers))
        finally:
            enough.touch()
        for server in servers:
            server.wait(60)

    with runner_lock(state, patience_s=5) as mine:
        assert mine
        servers = [
            subprocess.Popen(
                [sys.executable, "-c", SERVER, root, f"server{n}", enough], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for n in range(SERVERS)
        ]
        anyio.run(together)
        outputs = [server.communicate() for server in servers]
        assert [(server.returncode, err[-2000:]) for server, (_, err) in zip(servers, outputs)] == [(0, "")] * SERVERS
        anyio.run(Runner(settings, state, ledger, Repo(root), lake, LocalCompute("tiny", 1, state / "runner.log", command=NOOP)).run, 0.0)
    lake.close()
    heard = [json.loads(out) for out, _ in outputs]
    after = open_lake(settings, state)
    for table, of in (("memories", 0), ("experiments", 1)):
        acknowledged = sorted(id for each in heard for id in each[of])
        assert sorted(r.id for r in after.select(table, Query(limit=100_000))) == acknowledged  # type: ignore[arg-type]
        assert len(acknowledged) > SERVERS
    assert ledger.unflushed() == 0
    after.close()
    ledger.close()
