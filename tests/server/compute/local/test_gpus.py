"""A box of GPUs: real trainings on the CPU that say which device they were given, and NVML's own client on a stand-in of the driver."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.compute.base import DEVICE, Compute, ComputeError, Job, Observation
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.compute.local.nvml import NoGpus, Nvml
from autoresearch_mcp.server.compute.local.pool import Limits, Pool
from autoresearch_mcp.server.compute.local.pooled import PooledCompute
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import protocol
from tests.server.compute.jobs import ENDS, see
from tests.standins.nvml import Device, Driver, why_missing
from tests.trainer.conftest import BIGRAM

pytestmark = pytest.mark.anyio

GIVEN = "print('given', __import__('os').environ.get('CUDA_VISIBLE_DEVICES'), flush=True)"
QUICK = BIGRAM.replace("# before submit", GIVEN)
ENDLESS = BIGRAM.replace("# before submit", f"{GIVEN}\n    import time\n    while True: time.sleep(0.05)")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Driver:
    if why := why_missing():
        pytest.skip(f"no stand-in of NVML: {why}")
    driver = Driver(tmp_path_factory.mktemp("nvml"), [])
    driver.load()
    return driver


@pytest.fixture
def box(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Eight GPUs of one kind, with which nobody does anything."""
    for name, value in driver.environment.items():
        monkeypatch.setenv(name, value)
    driver.devices = [Device(f"GPU-{index}0000000-0000") for index in range(8)]
    driver.write()
    return driver


@pytest.fixture(scope="module")
async def processes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalCompute]:
    """What runs the trainings of all tests: its warm parent imports torch once."""
    local = LocalCompute("tiny", 1, tmp_path_factory.mktemp("local") / "log")
    yield local
    await local.close()


@pytest.fixture
def make_compute(box: Driver, processes: LocalCompute) -> Callable[..., PooledCompute]:
    def make(chosen: list[str] | None = None, per_device: int = 1) -> PooledCompute:
        return PooledCompute(processes, lambda: Pool(Nvml(), chosen, per_device, Limits()))

    return make


MakeJob = Callable[..., Awaitable[Job]]


@pytest.fixture
async def make_job(tmp_path: Path) -> AsyncIterator[MakeJob]:
    jobs: list[tuple[Compute, Job]] = []

    async def make(compute: Compute, code: str = QUICK) -> Job:
        id = new_id("e")
        spec = protocol.Spec(id, 1, "tiny", 20.0, 1, await compute.prepare())
        jobs.append((compute, Job(id, 1, tmp_path / id / "1", spec, {"train.py": code.encode()})))
        return jobs[-1][1]

    yield make
    for compute, job in jobs:
        await compute.cancel(job)
        await see(compute, job, *ENDS)


async def given(compute: Compute, job: Job) -> str:
    """The device that a job's own code saw."""
    log = job.directory / protocol.LOG
    with anyio.fail_after(60):
        while not (log.exists() and "given" in log.read_text(encoding="utf-8")):
            await compute.observe(job)
            await anyio.sleep(0.05)
    return log.read_text(encoding="utf-8").partition("given ")[2].split()[0]


async def test_eight_trainings_get_eight_devices_and_the_ninth_waits_for_one(
    box: Driver, make_compute: Callable[..., PooledCompute], make_job: MakeJob
) -> None:
    compute = make_compute()
    jobs = [await make_job(compute, ENDLESS) for _ in range(8)]
    for job in jobs:
        await compute.submit(job)
    seen = [await given(compute, job) for job in jobs]
    assert sorted(seen) == [device.uuid for device in box.devices]
    ninth = await make_job(compute)
    await compute.submit(ninth)
    assert await compute.observe(ninth) == Observation("starting", device_s=0.0) and await compute.adopt(ninth)
    await compute.cancel(jobs[3])
    assert (await see(compute, jobs[3], *ENDS)).phase == "ended"
    end = await see(compute, ninth, *ENDS)
    assert end.result is not None and end.result.state == "finished" and await given(compute, ninth) == seen[3]
    assert end.device_s is not None and 0 < end.device_s < 30, "the wait isn't counted"
    known = protocol.read_json(ninth.directory / DEVICE) or {}
    assert (known["uuid"], known["name"]) == (seen[3], "NVIDIA H100 80GB HBM3")
    assert known["start"] == known["end"] and known["start"]["driver"] == "580.65.06" and known["start"]["celsius"] == 35


async def test_a_gpu_that_falls_off_the_bus_rests_and_only_its_run_is_lost(
    box: Driver, make_compute: Callable[..., PooledCompute], make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.compute.local.pooled.LOOK_S", 0.1)
    monkeypatch.setattr("autoresearch_mcp.server.compute.local.pooled.TRY_S", 0.1)
    compute = make_compute(["0", "1"])
    first, second = [await make_job(compute, ENDLESS) for _ in range(2)]
    for job in (first, second):
        await compute.submit(job)
    uuid = await given(compute, first)
    await given(compute, second)
    index = [device.uuid for device in box.devices].index(uuid)
    box.change(index, state="lost")
    end = await see(compute, first, *ENDS)
    assert end.phase == "lost" and uuid in end.reason and end == await compute.observe(first)
    assert not await compute.adopt(first)
    assert (await compute.observe(second)).phase == "running", "the other goes on"
    third = await make_job(compute)
    await compute.submit(third)
    assert (await compute.observe(third)).phase == "starting" and "don't answer any more" in compute.troubles()[0]
    box.change(index, state="ok")
    assert (await see(compute, third, *ENDS)).phase == "ended" and await given(compute, third) == uuid
    assert not compute.troubles()


async def test_what_somebody_else_uses_is_left_alone_and_said(
    box: Driver, make_compute: Callable[..., PooledCompute], make_job: MakeJob
) -> None:
    box.change(0, used_mb=30_000)
    box.change(1, percent=90)
    compute = make_compute(["0", "1", "2"])
    job = await make_job(compute)
    await compute.submit(job)
    assert await given(compute, job) == box.devices[2].uuid
    assert (await see(compute, job, *ENDS)).phase == "ended"
    waiting = await make_job(compute, ENDLESS)
    await compute.submit(waiting)
    another = await make_job(compute)
    await compute.submit(another)
    assert (await compute.observe(another)).phase == "starting"
    assert "2 of 3 GPUs are used by somebody else" in compute.troubles()[0]


async def test_a_runner_that_takes_over_gives_no_device_twice(
    box: Driver, make_compute: Callable[..., PooledCompute], make_job: MakeJob
) -> None:
    first = make_compute(["0", "1"])
    job = await make_job(first, ENDLESS)
    await first.submit(job)
    uuid = await given(first, job)
    later = make_compute(["0", "1"])
    assert await later.adopt(job)
    others = [await make_job(later, ENDLESS) for _ in range(2)]
    for other in others:
        await later.submit(other)
    assert await given(later, others[0]) != uuid
    assert (await later.observe(others[1])).phase == "starting"


async def test_only_one_kind_is_used_and_slices_count_as_devices(box: Driver) -> None:
    box.devices = [
        Device("GPU-a0000000", "NVIDIA A100-SXM4-80GB"),
        Device("GPU-b0000000", slices=("MIG-b1", "MIG-b2", "MIG-b3")),
    ]
    box.write()
    assert [(gpu.uuid, gpu.parent) for gpu in Nvml().find()][1:] == [(f"MIG-b{n}", "GPU-b0000000") for n in (1, 2, 3)]
    pool = Pool(Nvml(), None, 1, Limits())
    assert [gpu.uuid for gpu in pool.gpus] == ["MIG-b1", "MIG-b2", "MIG-b3"] and "MIG" in pool.kind
    assert "A100" in pool.troubles()[0] and "can't be compared" in pool.troubles()[0]
    assert [gpu.uuid for gpu in Pool(Nvml(), ["GPU-a0000000"], 1, Limits()).gpus] == ["GPU-a0000000"]


async def test_devices_are_shared_only_as_often_as_lab_toml_says(box: Driver) -> None:
    pool = Pool(Nvml(), ["0", "1"], 2, Limits())
    taken = [pool.take(f"job {n}") for n in range(5)]
    assert Counter(given[0].uuid for given in taken[:4] if given) == {box.devices[0].uuid: 2, box.devices[1].uuid: 2} and taken[4] is None


async def test_a_machine_without_gpus_or_driver_says_which_it_lacks(
    box: Driver, make_compute: Callable[..., PooledCompute], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ComputeError, match=r"none of the GPUs that \[compute\] devices names"):
        await make_compute(["GPU-nowhere"]).prepare()
    monkeypatch.delenv("NVML_STANDIN")
    with pytest.raises(NoGpus, match="driver doesn't answer"):
        Nvml()


def test_a_lab_has_as_many_slots_as_devices_and_shares_none_by_wall_time(make_lab: Callable[..., Path]) -> None:
    root = make_lab("boxed", {'backend = "local"': 'backend = "local"\ndevices = ["0", "1", "2"]\nper_device = 2'})
    assert lab_settings.load(root).slots == 6
    wall = make_lab("wall", {'profile = "tiny"': 'profile = "h100"', 'backend = "local"': 'backend = "local"\nper_device = 2'})
    with pytest.raises(LabError, match="per_device must be 1"):
        lab_settings.load(wall)
