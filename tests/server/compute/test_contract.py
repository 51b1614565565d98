"""What every compute backend keeps to, as one body over the `Compute` interface: on processes of this machine, and on sandboxes of Modal,
whose real client talks to the stand-in of `tests/standins/modal`, on jobs of a real Slurm, also through its login node, and on
hosts behind a real sshd, where those can be started.

Another backend joins by a `Backend`: how to make it, and how to reach one of its jobs from outside.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server.compute.base import Compute, ComputeError, Job
from autoresearch_mcp.server.compute.line.transport import Ssh
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.compute.modal.backend import ModalCompute
from autoresearch_mcp.server.compute.slurm.backend import Pace, SlurmCompute
from autoresearch_mcp.server.compute.slurm.client import Slurm
from autoresearch_mcp.server.compute.ssh.backend import SshCompute
from autoresearch_mcp.server.compute.ssh.host import Wanted
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.settings import SlurmSection
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.trainer import protocol
from tests.server.compute.jobs import see
from tests.standins.modal.standin import Standin
from tests.standins.sshd import Hosts
from tests.trainer.conftest import BIGRAM

pytestmark = pytest.mark.anyio

ENDLESS = BIGRAM.replace("# before submit", "print('begun', flush=True)\n    import time\n    while True: time.sleep(0.1)")
GATED = BIGRAM.replace("# before submit", "import os, time\n    while not os.path.exists('/proc/self/cwd/../../code/go'): time.sleep(0.02)")


@dataclass(frozen=True)
class Backend:
    make: Callable[[Path], Compute]
    kill: Callable[[Job], None]
    """Kills a running job so that it leaves no result."""
    code: Callable[[Job], Path]
    """The folder that the running job has its code in."""
    make_unprepared: Callable[[Path], Compute]
    """Makes one that can prepare nothing, for a profile `nonsense`."""
    make_unable: Callable[[Path], Compute]
    """Makes one that can start nothing."""


def kill_supervisor(job: Job) -> None:
    os.kill(int((job.directory / protocol.LOCK).read_text(encoding="ascii")), signal.SIGKILL)


def local(warm: bool) -> Backend:
    def make(
        log: Path, profile: str = "tiny", command: tuple[str, ...] = (sys.executable, "-m", "autoresearch_mcp.trainer.launch")
    ) -> Compute:
        return LocalCompute(profile, 1, log, command, warm)

    return Backend(
        make,
        kill_supervisor,
        lambda job: job.directory / protocol.CODE,
        lambda log: make(log, profile="nonsense"),
        lambda log: make(log, command=("/no/such/launcher",)),
    )


def modal(service: Standin, deployed: Path) -> Backend:
    """Jobs ask for a GPU, as they always will, and train on the CPU, which the stand-in has."""

    def make(log: Path, profile: str = "tiny", state: Path = deployed) -> Compute:
        return ModalCompute(profile, state, {"cpu": "H100!"}, patience_s=1.0)

    def container(job: Job) -> dict[str, Any]:
        return service.running(experiment=job.id, attempt=str(job.attempt))[-1]

    def code(job: Job) -> Path:
        (folder,) = Path(container(job)["directory"], "tmp").glob(f"run-*/{protocol.CODE}")
        return folder

    return Backend(
        make,
        lambda job: service.control(preempt=[container(job)["id"]]) and None,
        code,
        lambda log: make(log, profile="nonsense"),
        lambda log: make(log, state=log.parent),
    )


def elsewhere(make: Callable[..., Compute], root: Path, runs: str, **absent: Any) -> Backend:
    """Jobs whose runs lie outside the lab, in folders that match `runs` below a root."""

    def there(job: Job) -> Path:
        (folder,) = root.glob(f"{runs}/{job.id}/{job.attempt}")
        return folder

    return Backend(
        make,
        lambda job: kill_supervisor(replace(job, directory=there(job))),
        lambda job: there(job) / protocol.CODE,
        lambda log: make(log, profile="nonsense"),
        lambda log: make(log, **absent),
    )


def slurm(state: Path) -> Backend:
    """Jobs whose runs lie on a file system of the nodes, which is not the lab's."""

    def make(log: Path, profile: str = "tiny", commands: dict[str, str] | None = None) -> Compute:
        section = SlurmSection(folder=str(state.parent / "shared"))
        return SlurmCompute(profile, 1, state, log, section, slurm=Slurm(commands), pace=Pace(queue_s=0.2, settle_s=0.5))

    return elsewhere(make, state.parent / "shared", "lab-*", commands={"sbatch": "/no/such/sbatch"})


def slurm_far(hosts: Hosts, login: str, state: Path) -> Backend:
    """Jobs of a cluster whose login node is behind a real sshd."""

    def make(log: Path, profile: str = "tiny", command: str = hosts.ssh) -> Compute:
        section = SlurmSection(folder=str(state.parent / "shared"), python=sys.executable)
        return SlurmCompute(
            profile, 1, state, log, section, pace=Pace(queue_s=0.3, settle_s=0.5), login=Ssh(login, sys.executable, command)
        )

    return elsewhere(make, state.parent / "shared", "lab-*/runs", command="/no/such/ssh")


def ssh(hosts: Hosts, state: Path) -> Backend:
    """Runs on two hosts behind a real sshd."""

    def make(log: Path, profile: str = "tiny", command: str = hosts.ssh) -> Compute:
        sections = {name: HostSection(python=sys.executable) for name in ("box", "other")}
        return SshCompute(Wanted(profile, None), 1, state, list(sections), sections, command, round_s=0.1)

    return elsewhere(make, hosts.folder, "home of */.autoresearch-mcp/labs/lab-*/runs", command="/no/such/ssh")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["local-warm", pytest.param("local-cold", marks=pytest.mark.slow), "modal", "slurm", "login", "ssh"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    if request.param == "slurm":
        request.getfixturevalue("slurm_cluster")
        return slurm(tmp_path_factory.mktemp("slurm") / "state")
    if request.param == "login":
        hosts, login = request.getfixturevalue("ssh_hosts"), request.getfixturevalue("login_node")
        return slurm_far(hosts, login, tmp_path_factory.mktemp("login") / "state")
    if request.param == "ssh":
        return ssh(request.getfixturevalue("ssh_hosts"), tmp_path_factory.mktemp("ssh") / "state")
    if request.param != "modal":
        return local(warm=request.param == "local-warm")
    return modal(request.getfixturevalue("modal_standin"), request.getfixturevalue("deployed"))


@pytest.fixture(scope="module")
async def compute(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Compute]:
    compute = backend.make(tmp_path_factory.mktemp("compute") / "log")
    yield compute
    await compute.close()


MakeJob = Callable[..., Awaitable[Job]]


@pytest.fixture
async def make_job(compute: Compute, tmp_path: Path) -> AsyncIterator[MakeJob]:
    """Makes jobs, and sees to it that none of them runs on."""
    jobs = list[Job]()

    async def make(code: str = BIGRAM, **files: bytes) -> Job:
        id = new_id("e")  # a backend may remember those of other tests
        spec = protocol.Spec(id, 1, "tiny", 20.0, 1, await compute.prepare())
        jobs.append(Job(id, 1, tmp_path / id / "1", spec, {"train.py": code.encode(), **files}))
        return jobs[-1]

    yield make
    for job in jobs:
        if job.directory.is_dir() and (await compute.observe(job)).phase in ("running", "scoring"):
            await compute.cancel(job)
            await see(compute, job, "ended")


def printed(job: Job) -> str:
    try:
        return (job.directory / protocol.LOG).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


async def test_a_job_runs_to_a_result(compute: Compute, make_job: MakeJob) -> None:
    job = await make_job(BIGRAM.replace("# before submit", "print('hello from the job')"))
    await compute.submit(job)
    end = await see(compute, job, "ended", "lost")
    assert end.phase == "ended" and end.result is not None
    assert (end.result.state, end.result.seed, end.result.device) == ("finished", 1, "cpu")
    assert end.result.val_bpb is not None and 1 < end.result.val_bpb < 10 and end.result.hashes["data"]
    hidden = protocol.read_hidden(job.directory)
    assert hidden is not None and 1 < hidden < 10 and str(hidden) not in (job.directory / protocol.RESULT).read_text(encoding="utf-8")
    assert (job.directory / protocol.HIDDEN).stat().st_mode & 0o077 == 0
    assert "hello from the job" in printed(job)
    await compute.cancel(job)
    assert await compute.observe(job) == end  # an end is for good
    assert await compute.adopt(job)


async def test_a_crash_is_a_result(compute: Compute, make_job: MakeJob) -> None:
    job = await make_job("raise KeyError('what')\n")
    await compute.submit(job)
    result = (await see(compute, job, "ended", "lost")).result
    assert result is not None and result.state == "crashed" and "KeyError" in (result.failure or {})["message"]


async def test_a_running_job_tells_how_far_it_is_and_can_be_cancelled_twice(compute: Compute, make_job: MakeJob) -> None:
    job = await make_job(BIGRAM.replace("# before submit", "while True: pass"))
    await compute.submit(job)
    with anyio.fail_after(60):
        while not (now := await compute.observe(job)).used_s:  # noqa: ASYNC110
            await anyio.sleep(compute.poll_s)
    assert now.phase == "running" and 0 < now.share <= 1 and now.share == min(1, now.used_s / job.spec.budget_s)
    await compute.cancel(job)
    await compute.cancel(job)
    result = (await see(compute, job, "ended", "lost")).result
    assert result is not None and (result.state, result.val_bpb) == ("cancelled", None)


async def test_a_job_that_was_killed_is_lost_and_not_adopted(compute: Compute, backend: Backend, make_job: MakeJob) -> None:
    job = await make_job(ENDLESS)
    await compute.submit(job)
    with anyio.fail_after(60):
        while "begun" not in printed(job):
            await compute.observe(job)  # as the runner does, all the time
            await anyio.sleep(compute.poll_s)
    backend.kill(job)
    assert (await see(compute, job, "ended", "lost")).phase == "lost"
    assert not await compute.adopt(job)
    assert not (await compute.observe(job)).never_started


async def test_jobs_run_on_when_their_runner_goes_and_the_next_one_adopts_them(
    compute: Compute, backend: Backend, make_job: MakeJob, tmp_path: Path
) -> None:
    first = backend.make(tmp_path / "first.log")
    job = await make_job(GATED)
    await first.submit(job)
    await see(first, job, "running")
    await first.close()
    as_found = replace(job, files={})  # what a runner knows after a crash
    assert await compute.adopt(as_found) and await compute.adopt(as_found)
    assert (await compute.observe(as_found)).phase == "running"
    (backend.code(job) / "go").touch()
    result = (await see(compute, as_found, "ended", "lost")).result
    assert result is not None and result.state == "finished"


async def test_what_was_not_adopted_never_runs(compute: Compute, make_job: MakeJob) -> None:
    late = await make_job(ENDLESS)
    assert not await compute.adopt(replace(late, files={}))
    end = await compute.observe(late)
    assert (end.phase, end.never_started, end.device_s) == ("lost", True, 0.0)
    await compute.submit(late)  # as if it had been on its way all the time
    after = await make_job("raise KeyError('what')\n")
    await compute.submit(after)
    await see(compute, after, "ended")
    assert printed(late) == "" and (await compute.observe(late)).result is None
    assert not await compute.adopt(late)


async def test_a_job_that_cannot_be_written_is_refused(compute: Compute, make_job: MakeJob) -> None:
    job = await make_job(**{"x" * 300: b""})
    with pytest.raises(ComputeError, match="could not be written"):
        await compute.submit(job)


async def test_what_cannot_be_prepared_is_said_with_the_reason(backend: Backend, tmp_path: Path) -> None:
    compute = backend.make_unprepared(tmp_path / "log")
    with pytest.raises(ComputeError, match="nonsense"):
        await compute.prepare()
    await compute.close()


async def test_a_job_that_cannot_be_started_is_refused_and_never_runs(backend: Backend, make_job: MakeJob, tmp_path: Path) -> None:
    compute, job = backend.make_unable(tmp_path / "log"), await make_job()
    with pytest.raises(ComputeError, match="could not be started"):
        await compute.submit(job)
    assert not await compute.adopt(job)
    await compute.close()
