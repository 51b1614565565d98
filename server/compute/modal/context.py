"""What the parts of the Modal backend share: where the lab's things are, what jobs are called there, and patience."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.modal.client import EndedEarly, ModalAway, NameTaken, Sandbox, Service
from autoresearch_mcp.server.compute.modal.deployment import Deployment
from autoresearch_mcp.server.retry import retry_async

BOOT_S = 5.0  # from a sandbox's placement, where its price begins, to its first words; unproven
LOOK_S = 2.0  # between two looks at a sandbox that is waited for
RETRY_S = (1.0, 30.0)  # first and longest wait while the service is away or full

_T = TypeVar("_T")
_log = logging.getLogger("autoresearch.modal")


@dataclass(frozen=True)
class ModalContext:
    """Attributes:
    gpus: experiment device -> GPU to ask for, or none.
    command: a sandbox's entry point, for tests and benchmarks that put another in its place.
    """

    service: Service
    deployment: Deployment
    gpus: Mapping[str, str | None]
    command: tuple[str, ...]


def folder(job: Job) -> str:
    """Of a job's results, on the runs volume."""
    return f"{job.id}/{job.attempt}"


def name(job: Job) -> str:
    """Of a job's sandbox: unique, so that a second one can't be made while the first runs."""
    return f"{job.id}-{job.attempt}"


async def retry_until_available(call: Callable[[], Awaitable[_T]], what: str) -> _T:
    """Repeat a call until the service answers."""

    def log(error: BaseException, wait_s: float) -> None:
        _log.warning("Modal is away (%s), next try in %.0f s: %s", what, wait_s, error)

    return await retry_async(call, lambda error: isinstance(error, ModalAway), RETRY_S, log)


async def run_once(service: Service, wanted: Sandbox, say: Callable[[str], None]) -> tuple[str, int]:
    """Run a sandbox that makes something for all, or wait for the one that does already; its id and return code once it has ended.

    Raises:
        ComputeError, ModalAway: it did not start.
    """
    try:
        try:
            id = await service.create(wanted)
        except NameTaken:
            say(f"another setup has {wanted.name} at work; waiting for that")
            found = await service.find(wanted.name)
            id = found if found is not None else await service.create(wanted)
    except EndedEarly as error:
        raise ComputeError(f"The sandbox {wanted.name} ended as it started: {error}.") from error
    while (code := await retry_until_available(lambda: service.poll(id), "polling")) is None:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    return id, code
