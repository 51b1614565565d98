"""What the parts of the Modal backend share: where a lab's things are, what its jobs are called there, and how calls are repeated."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.modal.client import EndedEarly, ModalAway, NameTaken, Sandbox, Service
from autoresearch_mcp.server.compute.modal.deployment import Deployment
from autoresearch_mcp.server.retry import retry_async

BOOT_S = 5.0  # from a sandbox's placement, where its price begins, to its first words; unproven
LOOK_S = 2.0  # between two looks at a sandbox that is waited for
COMMIT_S = 45.0  # how late a volume's last writes may show
SETUP_COMMIT_S = 60.0  # the same, of large files
RETRY_S = (1.0, 30.0)  # first and longest pause while the service is away or full

_T = TypeVar("_T")
_log = logging.getLogger("autoresearch.modal")


@dataclass
class ModalContext:
    """One lab on Modal.

    Attributes:
        service: Makes the calls.
        deployment: What `setup modal` made for the lab; another one once it has made something else.
        gpus: An experiment's kind of device -> the GPU to ask for, or none.
        command: A sandbox's entry point. Tests and benchmarks put another in its place.
    """

    service: Service
    deployment: Deployment
    gpus: Mapping[str, str | None]
    command: tuple[str, ...]

    async def read(self, job: Job, file: str) -> bytes | None:
        """Return a file of the job's folder on the runs volume, or None if it isn't there (yet). Waits out an outage."""
        path = f"{results_folder(job)}/{file}"
        return await retry_until_available(lambda: self.service.read(self.deployment.runs, path), f"reading {file}")

    async def read_json(self, job: Job, file: str) -> dict[str, Any] | None:
        """Return the JSON object in a file of the job's folder on the runs volume, or None if there is none."""
        data = await self.read(job, file)
        try:
            value = json.loads(data) if data is not None else None
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


def results_folder(job: Job) -> str:
    """Return the job's folder on the runs volume."""
    return f"{job.id}/{job.attempt}"


def sandbox_name(job: Job) -> str:
    """Return the name of the job's sandbox. Names are unique, so a second sandbox can't be made while the first runs."""
    return f"{job.id}-{job.attempt}"


def is_away(error: BaseException) -> bool:
    """Return whether this is an error of a service that is away or full, so that another try may succeed."""
    return isinstance(error, ModalAway)


async def retry_until_available(call: Callable[[], Awaitable[_T]], what: str) -> _T:
    """Repeat a call until the service answers, and return its answer.

    Args:
        call: Runs once a try.
        what: Names the call in the log.

    Raises:
        ModalRefused: The service answered that it won't do it.
    """

    def log(error: BaseException, wait_s: float) -> None:
        _log.warning("Modal is away (%s), next try in %.0f s: %s", what, wait_s, error)

    return await retry_async(call, is_away, RETRY_S, log)


async def read_committed(read: Callable[[], Awaitable[_T | None]], within_s: float) -> _T | None:
    """Repeat a read of a volume until it returns something: a sandbox's last writes show late.

    Args:
        read: Returns None for what is not there yet.
        within_s: The last read begins this many seconds from now; with 0 there is one.

    Returns:
        What was read, or None.
    """
    deadline = time.monotonic() + within_s
    while (value := await read()) is None and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(RETRY_S[0])
    return value


async def run_once(service: Service, wanted: Sandbox, say: Callable[[str], None]) -> tuple[str, int]:
    """Run a sandbox that makes something for all trainings, or wait for the one that does already.

    Args:
        service: Makes the calls.
        wanted: The sandbox. Its name tells whether it runs already.
        say: Tells the user what is waited for.

    Returns:
        The sandbox's id, and its return code once it has ended.

    Raises:
        ComputeError: It did not start.
        ModalAway: It did not start, as the service is away or full.
    """
    try:
        try:
            id = await service.create(wanted)
        except NameTaken:
            say(f"another setup runs {wanted.name} already; waiting for that")
            running = await service.find(wanted.name)
            id = running if running is not None else await service.create(wanted)
    except EndedEarly as error:
        raise ComputeError(f"The sandbox {wanted.name} ended as it started: {error}.") from error
    while (code := await retry_until_available(lambda: service.poll(id), "polling")) is None:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    return id, code
