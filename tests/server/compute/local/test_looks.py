"""Jobs that are looked at together."""

import asyncio
from pathlib import Path

import pytest

from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.trainer import protocol


@pytest.mark.anyio
async def test_jobs_that_are_looked_at_together_get_their_own_answers(tmp_path: Path) -> None:
    compute = LocalCompute("tiny", 1, tmp_path / "log")
    jobs = [Job(f"e-{n}", 1, tmp_path / str(n), protocol.Spec(f"e-{n}", 1, "tiny", 20.0, 1, ""), {}) for n in range(20)]
    for n, job in enumerate(jobs):
        job.directory.mkdir()
        protocol.write_json(job.directory / protocol.PROGRESS, protocol.Progress("running", float(n)))
    (jobs[3].directory / protocol.LOCK).mkdir()  # it can't be opened
    leaves = asyncio.ensure_future(compute.observe(jobs[5]))
    asking = [asyncio.ensure_future(compute.observe(job)) for job in jobs]
    await asyncio.sleep(0)
    leaves.cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found.pop(3), IsADirectoryError)
    assert [each.used_s for each in found if isinstance(each, Observation)] == [float(n) for n in range(20) if n != 3]
    assert (await compute.observe(jobs[7])).used_s == 7.0, "and one by itself"
