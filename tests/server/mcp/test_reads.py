"""What agents read is answered by a process beside a server of many: the same answers, as new as what was acknowledged."""

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mcp import Client
from mcp.types import TextResourceContents

from autoresearch_mcp.server.beside.process import Beside
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.mcp.reads import STATUS_S, Reads
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_alive, runner_lock
from tests.processes import helpers
from tests.server.mcp.calls import answer, call, refusal, text
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


async def test_all_that_is_read_is_as_it_would_be_in_the_server_itself(runner_lab: FakeRunnerLab, lab: Lab) -> None:
    cursor = lab.cursor()
    ids = lab.launch_training("champion", "ada", 2).experiments
    runner_lab.finish(ids[0], 1.5, "k")
    proposal = lab.propose_patch(
        "A wider model learns more.", "ada", edits=[{"path": "train.py", "search": "WIDTH = 64", "replace": "WIDTH = 96"}]
    )
    lab.write_memory("finding", "Wider models learn more.", "ada", experiments=[ids[0]])
    reads: list[tuple[str, dict[str, object]]] = [
        ("get_status", {}),
        ("get_status", {"since": cursor}),
        ("get_status", {"since": "0"}),
        ("read_file", {}),
        ("read_file", {"commit": proposal.commit, "diff": "base"}),
        ("read_file", {"path": "none.py"}),
        ("get_experiment", {"id": [ids[0]], "include": ["diff", "curve"]}),
        ("get_experiment", {"id": ids}),
        ("get_experiment", {"id": ["s-1m8dd3qhgr0w99r"]}),
        ("read_log", {"id": ids[0]}),
        ("read_log", {"id": "e-1m8dd3qhgr0w99r"}),
        ("query_experiments", {"limit": 5}),
        ("query_experiments", {"sql": "SELECT COUNT(*) AS n FROM experiments"}),
        ("query_experiments", {"sql": "DROP TABLE experiments"}),
        ("search_memory", {"query": "wide models"}),
        ("search_memory", {"free": True}),
        ("search_memory", {"experiment": ids[0], "since": "1h"}),
    ]
    with contextlib.closing(Beside(Reads, lab)) as readers:
        async with Client(build_server(lab)) as here, Client(build_server(lab, helper=readers)) as beside:
            for tool, arguments in reads:
                one, other = [await call(client, tool, **arguments) for client in (here, beside)]
                assert one.is_error == other.is_error, tool
                if tool == "get_status" and not one.is_error:  # how long something takes yet changes by itself
                    for each in (one, other):
                        each.structured_content["cursor"] = each.structured_content["budget"] = ""  # type: ignore[index]
                    assert one.structured_content == other.structured_content
                else:
                    told = [re.sub(r"data [0-9a-f]{8}", "", text(each)) for each in (one, other)]  # fences differ
                    assert told[0] == told[1] and told[0], (tool, arguments)
        assert readers.pid is not None


async def test_who_reads_is_told_what_was_just_acknowledged_also_after_the_process_was_killed(runner_lab: FakeRunnerLab) -> None:
    with served_over_http(runner_lab.root) as server:
        async with Client(server.url) as client:
            for n in range(3):
                (id,) = (await answer(client, "launch_training", commit="champion", author="ada", confirm=True))["experiments"]
                memory = await answer(client, "write_memory", kind="finding", text=f"What was learned of {n}.", author="ada")
                assert id in [row["id"] for row in (await answer(client, "query_experiments"))["rows"]]
                assert (await answer(client, "search_memory"))["memories"][0]["id"] == memory["id"]
                assert (await answer(client, "get_status"))["counts"]["queued"] == n + 1
                until(lambda: n > 0 or helpers(server.process.pid, Reads), 20)  # noqa: B023 it is called at once
                for reader in helpers(server.process.pid, Reads):  # none for a while where one was killed before it answered
                    os.kill(reader, signal.SIGKILL)


@pytest.mark.parametrize("way", ["tool", "resource"])
async def test_who_looks_at_the_status_starts_the_runner_where_there_is_work_though_the_process_starts_none(
    make_lab: Callable[..., Path], way: str
) -> None:
    async def has_runner(client: Client) -> bool:
        if way == "tool":
            return bool((await answer(client, "get_status"))["runner"])
        (content,) = (await client.read_resource("lab://status")).contents
        assert isinstance(content, TextResourceContents)
        return bool(json.loads(content.text)["runner"])

    root = make_lab()
    with contextlib.closing(Lab(root)) as lab, contextlib.closing(Beside(Reads, lab)) as reads:
        async with Client(build_server(lab, helper=reads)) as client:
            assert not await has_runner(client)
            with runner_lock(LabPaths(root).state):  # so that none starts
                lab.pause()  # nor a training
                await answer(client, "launch_training", commit="champion", author="ada")
            assert not (await reads.ask(Reads.status, "ada", time.monotonic())).runner
            assert await has_runner(client)
    until(lambda: runner_alive(LabPaths(root).state), 60)  # and one that only starts yet can't be stopped after the test


async def test_an_edit_of_lab_toml_that_is_not_valid_keeps_nobody_from_reading(runner_lab: FakeRunnerLab, lab: Lab) -> None:
    with contextlib.closing(Beside(Reads, lab)) as reads:
        async with Client(build_server(lab, helper=reads)) as client:
            await answer(client, "get_status")
            LabPaths(runner_lab.root).settings.write_text("[lab", encoding="utf-8")
            assert reads.pid is not None
            os.kill(reads.pid, signal.SIGKILL)  # the next can't open the lab
            warnings = str((await answer(client, "get_status"))["warnings"])
    assert "not valid" in warnings and str(runner_lab.root) not in warnings and reads.pid is None


async def test_a_fault_of_ours_says_where_it_is_logged_and_what_to_do(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Beside(Reads, lab)) as reads:
        async with Client(build_server(lab, helper=reads)) as client:
            with monkeypatch.context() as patched:
                patched.setattr("autoresearch_mcp.server.mcp.reads.Reads.file", Reads.warm_up)  # which takes no path
                why = await refusal(client, "read_file")
    assert why.startswith("Internal error in read_file (logged as ") and "call get_status" in why


def test_a_status_is_given_to_all_who_asked_before_it_was_read_and_again_while_nothing_changed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(LabPaths(lab.root).settings, (0, 0))  # else nobody can tell whether it changed just now
    now, read, status = 100.0, list[bool](), lab.status
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(lab, "status", lambda steps: read.append(steps) or status(steps))
    reads = Reads(lab)
    reads.status("ada", 99.0)
    lab.launch_training("champion", "ada", 1)
    assert not reads.status("bob", 99.5).counts.get("queued") and len(read) == 1  # asked before the first was read
    now += STATUS_S / 2
    assert reads.status("bob", now).counts["queued"] == 1 and len(read) == 2
    now += STATUS_S / 2
    assert reads.status("ada", now).counts["queued"] == 1 and len(read) == 2
    now += STATUS_S
    reads.status("ada", now)
    assert len(read) == 3
