"""A backend on Modal's stand-in, and jobs for it. Their sandboxes run `tests.standins.modal.noop_remote`, which trains nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.modal import deployment
from autoresearch_mcp.server.compute.modal.backend import ModalCompute
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import protocol
from tests.standins.modal.runner import NOOP
from tests.standins.modal.standin import Standin

ENDED = ("ended", "lost", "refused")


async def eventually(condition: Callable[[], Any]) -> Any:
    """Return the condition's first true answer, without holding up the loop that jobs live in."""
    with anyio.fail_after(60):
        while not (answer := condition()):  # noqa: ASYNC110
            await anyio.sleep(0.02)
    return answer


class BackendHarness:
    """A backend on the stand-in, and jobs for it."""

    def __init__(self, service: Standin, state: Path, scratch: Path) -> None:
        self.service, self.state, self.scratch = service, state, scratch
        self.compute = self.make()

    def make(self, patience_s: float = 0.2) -> ModalCompute:
        compute = ModalCompute("tiny", self.state, requests(), NOOP, patience_s)
        compute.poll_s = 0.05
        return compute

    def job(self, orders: str = "", device: str = "cpu") -> Job:
        id = new_id("e")
        spec = protocol.Spec(id, 1, "tiny", 1.0, 1, deployment.TRAINING, device)
        return Job(id, 1, self.scratch / id / "1", spec, {"train.py": f"# {orders}\n".encode()})

    async def see(self, job: Job, *phases: str, compute: ModalCompute | None = None) -> Observation:
        """Observe the job until it is in one of these phases. Any other end fails the test."""
        with anyio.fail_after(60):
            while (observation := await (compute or self.compute).observe(job)).phase not in phases:
                assert observation.phase not in ENDED, observation
                await anyio.sleep(0.02)
        return observation

    def containers(self, job: Job) -> list[dict[str, Any]]:
        return self.service.containers(experiment=job.id)

    def out(self, job: Job) -> Path:
        """Return the job's folder on the runs volume."""
        (container,) = self.containers(job)
        return Path(container["directory"], "fs", deployment.OUT.lstrip("/")).resolve()

    async def running(self, job: Job) -> None:
        """Wait until the sandbox runs, whatever the backend knows of it."""
        await eventually(lambda: any(c["started_at"] and (self.out(job) / "starts").exists() for c in self.containers(job)))
