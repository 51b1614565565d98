"""A job of a test, and how it goes on."""

from pathlib import Path

import anyio

from autoresearch_mcp.server.compute.base import Compute, Job, Observation
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import protocol

ENDS = ("ended", "lost", "refused")
_ORDER = ("starting", "running", "scoring")


async def submitted(compute: Compute, folder: Path, device: str = "cpu") -> Job:
    """A new job that the backend has. Its code is for a launcher that trains nothing."""
    id = new_id("e")
    with anyio.fail_after(120):
        spec = protocol.Spec(id, 1, "tiny", 20.0, 1, await compute.prepare(), device=device)
    job = Job(id, 1, folder / id / "1", spec, {"train.py": b""})
    await compute.submit(job)
    return job


async def see(compute: Compute, job: Job, *phases: str) -> Observation:
    """Observe until the job is in one of these phases. Phases only ever move on, and an end that is not asked for fails the test."""
    order = [0]
    with anyio.fail_after(60):
        while (now := await compute.observe(job)).phase not in phases:
            assert now.phase not in ENDS, now
            order.append(_ORDER.index(now.phase))
            assert order == sorted(order), "a job went back"
            await anyio.sleep(min(compute.poll_s, 0.1))
    return now
