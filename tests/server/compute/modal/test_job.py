"""A job on Modal's stand-in: its states, outages, full quotas, time limits, ends that nobody saw, and a full disk."""

import errno
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server.compute.base import Job
from autoresearch_mcp.server.compute.modal import client, context
from autoresearch_mcp.server.compute.modal import job as sandbox_job
from autoresearch_mcp.server.compute.modal.job import TRANSITIONS, State
from autoresearch_mcp.trainer import protocol
from tests.server.compute.modal.harness import BackendHarness, eventually

pytestmark = pytest.mark.anyio

FINAL = {State.ENDED, State.LOST, State.REFUSED}


def test_the_table_in_the_docstring_is_the_table_of_transitions() -> None:
    printed = {(before, after) for before, after in re.findall(r"^    (\w+) +-> (\w+) ", sandbox_job.__doc__ or "", re.MULTILINE)}
    always = {after for before, after in printed if before == "any"}
    for state in State:
        named = {after for before, after in printed if before == state}
        assert set(TRANSITIONS[state]) == (set() if state in FINAL else named | always), state


def test_every_state_can_be_reached_and_left_unless_it_is_final() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {after for following in TRANSITIONS.values() for after in following} == set(State) - {State.CREATING}
    assert {state for state in State if not TRANSITIONS[state]} == FINAL


@pytest.fixture
def moves(caplog: pytest.LogCaptureFixture) -> Iterator[list[tuple[str, str]]]:
    """The moves of all jobs of this test, as they are logged."""
    moves = list[tuple[str, str]]()

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.msg == "%s: %s -> %s":
                arguments: Any = record.args
                moves.append((str(arguments[1]), str(arguments[2])))

    logger, recorder = logging.getLogger("autoresearch.modal"), Recorder()
    caplog.set_level(logging.DEBUG, logger.name)
    logger.addHandler(recorder)
    yield moves
    logger.removeHandler(recorder)


async def test_a_job_moves_from_its_creation_to_its_score_and_one_that_nobody_made_is_lost(
    harness: BackendHarness, moves: list[tuple[str, str]]
) -> None:
    job = harness.job("submit")
    await harness.compute.submit(job)
    await harness.see(job, "ended")
    assert moves == [("creating", "following"), ("following", "collecting"), ("collecting", "scoring"), ("scoring", "ended")]
    moves.clear()
    assert not await harness.compute.adopt(harness.job())
    assert moves == [("finding", "collecting"), ("collecting", "lost")]


async def test_an_outage_of_minutes_loses_nothing_and_holds_up_nobody_who_looks(
    harness: BackendHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled: calls are given up after 0.5 s instead of 30, retried every 0.1 to 0.2 s instead of 1 to 30."""
    monkeypatch.setattr(client, "RPC_S", 0.5)
    monkeypatch.setattr(context, "RETRY_S", (0.1, 0.2))
    before = harness.job("hold")
    await harness.compute.submit(before)
    await harness.see(before, "running")
    await harness.running(before)
    harness.service.control(away=True)
    during = harness.job()
    with anyio.fail_after(10):
        await harness.compute.submit(during)
        await harness.compute.observe(before)
    (harness.out(before) / "go").touch()
    await eventually(lambda: not harness.service.running(experiment=before.id))
    refused = sum(harness.service.control()["calls"].values())
    await eventually(lambda: sum(harness.service.control()["calls"].values()) >= refused + 10)  # both were tried again and again
    with anyio.fail_after(10):
        assert (await harness.compute.observe(before)).phase == "running"
        assert (await harness.compute.observe(during)).phase == "starting"
    harness.service.control(away=False)
    for job in (before, during):
        result = (await harness.see(job, "ended")).result
        assert result is not None and result.state == "finished" and len(harness.containers(job)) == 1


async def test_what_a_request_without_an_answer_made_is_not_made_again_once_it_ended(
    harness: BackendHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "RETRY_S", (0.1, 0.2))
    job, create = harness.job(), client.Service.create

    async def create_unanswered(service: client.Service, wanted: client.Sandbox) -> str:
        monkeypatch.setattr(client.Service, "create", create)
        await create(service, wanted)
        await eventually(lambda: not harness.service.running(experiment=job.id))
        raise client.ModalAway("the answer was lost on its way")

    monkeypatch.setattr(client.Service, "create", create_unanswered)
    await harness.compute.submit(job)
    end = await harness.see(job, "ended")
    assert end.result is not None and end.result.state == "finished" and len(harness.containers(job)) == 1


async def test_where_no_gpu_is_free_a_creation_waits_alone_and_can_be_cancelled_at_no_cost(harness: BackendHarness) -> None:
    harness.service.control(capacity=1)
    first, blocked, third = harness.job("hold"), harness.job("hold"), harness.job()
    await harness.compute.submit(first)
    await harness.running(first)
    for job in (blocked, third):
        await harness.compute.submit(job)
    await eventually(lambda: harness.containers(blocked) and harness.containers(third))
    assert (await harness.compute.observe(blocked)).phase == "starting"
    await harness.compute.cancel(blocked)
    end = await harness.see(blocked, "ended")
    assert end.result is not None and (end.result.state, end.device_s) == ("cancelled", 0.0)
    assert not harness.service.running(experiment=blocked.id) and not harness.containers(blocked)[0]["started_at"]
    (harness.out(first) / "go").touch()
    for job in (first, third):
        assert (await harness.see(job, "ended")).result
    assert (await harness.compute.observe(first)).device_s


async def test_a_sandbox_past_its_time_limit_is_lost(harness: BackendHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_job, "START_LIMIT_S", -42.0)  # of the 45 s that a tiny run may take at most
    job = harness.job("hold")
    await harness.compute.submit(job)
    end = await harness.see(job, "lost")
    assert end.device_s and not harness.service.running(experiment=job.id)


async def ended_unseen(harness: BackendHarness) -> Job:
    """A job that ended while no backend was there to see it."""
    job = harness.job("hold")
    await harness.compute.submit(job)
    await harness.running(job)
    await harness.compute.close()
    (harness.out(job) / "go").touch()
    await eventually(lambda: not harness.service.running(experiment=job.id))
    return job


async def test_what_ended_while_nobody_looked_is_found_on_the_volume(harness: BackendHarness) -> None:
    job = await ended_unseen(harness)
    later = harness.make()
    assert await later.adopt(replace(job, files={}))
    end = await harness.see(job, "ended", compute=later)
    assert end.result is not None and end.result.state == "finished" and len(harness.containers(job)) == 1
    await later.close()


async def test_a_result_that_the_volume_shows_late_is_waited_for(harness: BackendHarness) -> None:
    job = await ended_unseen(harness)
    for file in (protocol.RESULT, protocol.BEGUN):
        (harness.out(job) / file).rename(harness.scratch / file)
    protocol.write_json(harness.out(job) / protocol.BEGUN, {"begun": 1.0})  # an earlier commit of the volume's
    later = harness.make()
    reads = harness.service.control()["calls"]["VolumeGetFile2"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(later.adopt, replace(job, files={}))
        await eventually(lambda: harness.service.control()["calls"]["VolumeGetFile2"] > reads + 2)
        for file in (protocol.BEGUN, protocol.RESULT):
            (harness.scratch / file).rename(harness.out(job) / file)
    end = await harness.see(job, "ended", compute=later)
    assert end.result is not None and end.result.state == "finished" and end.device_s and end.device_s < 60
    await later.close()


@pytest.mark.parametrize("file", [sandbox_job.SANDBOX, protocol.RESULT])
async def test_a_disk_that_is_full_for_a_while_loses_no_training(
    harness: BackendHarness, file: str, moves: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "RETRY_S", (0.1, 0.2))
    write, refused = protocol.write_json, []

    def full(path: Path, value: object) -> None:
        if path.name == file and len(refused) < 2:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, value)

    monkeypatch.setattr(protocol, "write_json", full)
    job = harness.job("hold")
    await harness.compute.submit(job)
    await harness.running(job)
    (harness.out(job) / "go").touch()
    end = await harness.see(job, "ended")
    assert len(refused) == 2 and end.result is not None and end.result.state == "finished" and len(harness.containers(job)) == 1
    assert await harness.compute.cost(job.directory), "its sandbox is known all the same"
    assert [after for _, after in moves].count("finding") == 2
