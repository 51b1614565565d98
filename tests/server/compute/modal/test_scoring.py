"""Scoring on Modal's stand-in: batches, scorers that die, and the score on the hidden split."""

import pytest

from autoresearch_mcp.server.compute.modal import context
from autoresearch_mcp.trainer import protocol
from tests.server.compute.modal.harness import BackendHarness, eventually

pytestmark = pytest.mark.anyio


async def test_submitted_models_are_scored_together_and_one_by_one_where_their_scorer_dies(harness: BackendHarness) -> None:
    compute, jobs = harness.make(patience_s=60.0), [harness.job("hold submit") for _ in range(4)]
    for job in jobs:
        await compute.submit(job)
    for job in jobs:
        await harness.running(job)
    harness.service.control(boot_s=3600.0)  # so that the scorer can't be done before it is ended
    for job in jobs:
        (harness.out(job) / "go").touch()
    (scorer,) = await eventually(lambda: harness.service.running(stage="score"))
    harness.service.control(preempt=[scorer["id"]], boot_s=0.0)
    billed_s = 0.0
    for job in jobs:
        end = await harness.see(job, "ended", compute=compute)
        billed_s += end.device_s or 0.0
        assert end.result is not None and (end.result.state, end.result.val_bpb) == ("finished", 1.25)
    scorers = [[job.id for job in jobs if any(job.id in text for text in c["argv"])] for c in harness.service.containers(stage="score")]
    together, *alone = [ids for ids in scorers if ids]
    assert sorted(together) == sorted(job.id for job in jobs) == sorted(id for (id,) in alone)
    assert billed_s >= (len(jobs) + 1 + len(alone)) * context.BOOT_S, "what scored nothing is paid for, too"
    await compute.close()


@pytest.mark.parametrize("orders", ["submit", "submit late", "submit old"])
async def test_the_hidden_score_comes_in_a_file_of_its_own(harness: BackendHarness, orders: str) -> None:
    job = harness.job(orders)
    await harness.compute.submit(job)
    end = await harness.see(job, "ended")
    assert end.result is not None and end.result.val_bpb == 1.25 and protocol.read_hidden(job.directory) == 1.75
    assert (job.directory / protocol.HIDDEN).stat().st_mode & 0o077 == 0
    assert all("1.75" not in path.read_text(encoding="utf-8") for path in job.directory.glob("*.*") if path.name != protocol.HIDDEN)


async def test_a_score_that_makes_no_sense_ends_its_own_job_alone(harness: BackendHarness) -> None:
    compute, jobs = harness.make(patience_s=60.0), [harness.job(orders) for orders in ("submit", "submit unreadable", "submit", "submit")]
    for job in jobs:
        await compute.submit(job)
    ends = [await harness.see(job, "ended", compute=compute) for job in jobs]
    assert [end.result.val_bpb if end.result else end.reason for end in ends] == [
        1.25,
        "the result's val_bpb is not of its type.",
        1.25,
        1.25,
    ]
    again = await harness.make().observe(jobs[1])
    assert (again.phase, again.result, again.reason) == ("ended", None, ends[1].reason), "an end is for good"
    await compute.close()
