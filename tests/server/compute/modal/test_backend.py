"""What is particular to Modal, against its stand-in: what a sandbox gets, outages, full quotas, preemption, batches of scores, orphans, money.

Most sandboxes here run `tests.standins.modal.noop_remote`, which keeps the protocol and trains nothing; real trainings are in
`test_contract.py` and in `tests/acceptance/test_modal.py`.
"""

import base64
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from modal_proto import api_grpc

from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.modal import client, context, deployment
from autoresearch_mcp.server.compute.modal import job as sandbox_job
from autoresearch_mcp.server.compute.modal.backend import ModalCompute, end_orphans
from autoresearch_mcp.server.compute.modal.client import Service
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import protocol
from tests.standins.modal.runner import NOOP
from tests.standins.modal.standin import Standin

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[4]
ENDED = ("ended", "lost", "refused")


async def eventually(condition: Callable[[], Any]) -> Any:
    """The condition's first true answer, without holding up the loop that keepers live in."""
    with anyio.fail_after(60):
        while not (answer := condition()):  # noqa: ASYNC110
            await anyio.sleep(0.02)
    return answer


class Bench:
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
        with anyio.fail_after(60):
            while (seen := await (compute or self.compute).observe(job)).phase not in phases:
                assert seen.phase not in ENDED, seen
                await anyio.sleep(0.02)
        return seen

    def containers(self, job: Job) -> list[dict[str, Any]]:
        return self.service.containers(experiment=job.id)

    def out(self, job: Job) -> Path:
        """Its folder on the runs volume."""
        (container,) = self.containers(job)
        return Path(container["directory"], "fs", deployment.OUT.lstrip("/")).resolve()

    async def running(self, job: Job) -> None:
        """Until the sandbox runs, whatever the backend knows of it."""
        await eventually(lambda: any(c["started_at"] and (self.out(job) / "starts").exists() for c in self.containers(job)))


@pytest.fixture
async def bench(modal_standin: Standin, deployed: Path, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(modal_standin, deployed, tmp_path)
    yield bench
    modal_standin.control(away=False, capacity=None)
    await bench.compute.close()
    for container in modal_standin.running():
        modal_standin.control(preempt=[container["id"]])


async def test_a_trainer_gets_a_pinned_gpu_its_data_and_no_secret_and_a_scorer_what_it_measures_with(bench: Bench) -> None:
    job = bench.job("submit", device="h100")
    await bench.compute.submit(job)
    end = await bench.see(job, "ended")
    assert end.result is not None and end.result.val_bpb == 1.25
    (trainer,) = bench.containers(job)
    (scorer,) = [c for c in bench.service.containers(stage="score") if any(job.id in text for text in c["argv"])]
    found = deployment.load(bench.state)
    assert trainer["volumes"] == {
        deployment.TRAINING: [found.training, True, ""],
        deployment.OUT: [found.runs, False, f"/{job.id}/1"],
    }
    assert scorer["volumes"] == {deployment.EVALUATION: [found.evaluation, True, ""], deployment.RUNS: [found.runs, False, ""]}
    assert (trainer["name"], trainer["tags"]["lab"], trainer["tags"]["attempt"]) == (f"{job.id}-1", found.lab, "1")
    for container in (trainer, scorer):
        assert (container["gpu"], container["network"], container["secrets"], container["image"]) == ("H100!", False, [], found.image)
        assert not any("standin" in text for text in (*container["environment"].values(), *container["argv"]) if text.startswith("a"))


async def test_all_that_is_said_to_the_service_is_what_its_own_types_can_say(bench: Bench) -> None:
    """Decoded by the client library's generated types, nothing unknown is left over, and the fields that matter hold what was meant."""
    job = bench.job("submit", device="h100")
    await bench.compute.submit(job)
    await bench.see(job, "ended")
    await eventually(lambda: not bench.service.running(stage="score"))
    assert await bench.compute.adopt(job) and await bench.compute.orphans(set) == [] and await bench.compute.cost(job.directory)
    assert not await bench.compute.adopt(bench.job())
    state = bench.service.control()
    types = {path.rpartition("/")[2]: handler for path, handler in api_grpc.ModalClientBase.__mapping__(AnyPlane()).items()}
    said = {name: types[name].request_type.FromString(base64.b64decode(raw)) for name, raw in state["requests"].items()}
    assert state["unimplemented"] == []
    assert {"SandboxCreate", "SandboxList", "AppGetOrCreate", "VolumeGetFile2", "SandboxGetLogs", "ImageGetOrCreate"} <= said.keys()
    for name, message in said.items():
        assert (message.ByteSize() or not message.DESCRIPTOR.fields) and not unknown_fields(message), name
    wanted = said["SandboxCreate"].definition
    assert list(wanted.entrypoint_args[:4]) == list(NOOP) and wanted.resources.gpu_config.gpu_type == "H100!"
    assert wanted.network_access.network_access_type == wanted.network_access.BLOCKED and not wanted.secret_ids
    assert 0 < wanted.timeout_secs < 300 and wanted.resources.memory_mb == 16_384 and wanted.resources.milli_cpu == 2000


class AnyPlane:
    """Answers to every name: the generated mapping wants a handler of each call."""

    def __getattr__(self, name: str) -> str:
        return name


def unknown_fields(message: Any) -> bool:
    from google.protobuf.unknown_fields import UnknownFieldSet

    nested = [value for field, value in message.ListFields() if field.message_type is not None]
    inner = [one for value in nested for one in (value if hasattr(value, "append") or hasattr(value, "add") else [value])]
    return bool(len(UnknownFieldSet(message))) or any(unknown_fields(one) for one in inner if hasattr(one, "ListFields"))


async def test_an_outage_of_minutes_loses_nothing_and_holds_up_nobody_who_looks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled: calls are given up after 0.5 s instead of 30, retried every 0.1 to 0.2 s instead of 1 to 30."""
    monkeypatch.setattr(client, "RPC_S", 0.5)
    monkeypatch.setattr(context, "RETRY_S", (0.1, 0.2))
    before = bench.job("hold")
    await bench.compute.submit(before)
    await bench.see(before, "running")
    await bench.running(before)
    bench.service.control(away=True)
    during = bench.job()
    with anyio.fail_after(10):
        await bench.compute.submit(during)
        await bench.compute.observe(before)
    (bench.out(before) / "go").touch()
    await eventually(lambda: not bench.service.running(experiment=before.id))
    refused = sum(bench.service.control()["calls"].values())
    await eventually(lambda: sum(bench.service.control()["calls"].values()) >= refused + 10)  # both were tried again and again
    with anyio.fail_after(10):
        assert (await bench.compute.observe(before)).phase == "running"
        assert (await bench.compute.observe(during)).phase == "starting"
    bench.service.control(away=False)
    for job in (before, during):
        result = (await bench.see(job, "ended")).result
        assert result is not None and result.state == "finished" and len(bench.containers(job)) == 1


async def test_where_no_gpu_is_free_a_creation_waits_alone_and_can_be_cancelled_at_no_cost(bench: Bench) -> None:
    bench.service.control(capacity=1)
    first, blocked, third = bench.job("hold"), bench.job("hold"), bench.job()
    await bench.compute.submit(first)
    await bench.running(first)
    for job in (blocked, third):
        await bench.compute.submit(job)
    await eventually(lambda: bench.containers(blocked) and bench.containers(third))
    assert (await bench.compute.observe(blocked)).phase == "starting"
    await bench.compute.cancel(blocked)
    end = await bench.see(blocked, "ended")
    assert end.result is not None and (end.result.state, end.device_s) == ("cancelled", 0.0)
    assert not bench.service.running(experiment=blocked.id) and not bench.containers(blocked)[0]["started_at"]
    (bench.out(first) / "go").touch()
    for job in (first, third):
        assert (await bench.see(job, "ended")).result
    assert (await bench.compute.observe(first)).device_s


async def test_a_sandbox_past_its_time_limit_is_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_job, "START_LIMIT_S", -42.0)  # of the 45 s that a tiny run may take at most
    job = bench.job("hold")
    await bench.compute.submit(job)
    seen = await bench.see(job, "lost")
    assert seen.device_s and not bench.service.running(experiment=job.id)


async def test_two_submitters_of_one_job_share_one_sandbox(bench: Bench) -> None:
    job, other = bench.job("hold"), bench.make()
    await bench.compute.submit(job)
    await other.submit(job)
    await bench.running(job)
    (bench.out(job) / "go").touch()
    ends = [await bench.see(job, "ended", compute=compute) for compute in (bench.compute, other)]
    assert all(end.result and end.result.state == "finished" for end in ends)
    assert len(bench.containers(job)) == 1 and (bench.out(job) / "starts").read_text(encoding="utf-8").count("started") == 1
    await other.close()


async def test_submitted_models_are_scored_together_and_one_by_one_where_their_scorer_dies(bench: Bench) -> None:
    bench.service.control(boot_s=1.0)
    compute, jobs = bench.make(patience_s=60.0), [bench.job("submit") for _ in range(4)]
    for job in jobs:
        await compute.submit(job)
    (scorer,) = await eventually(lambda: bench.service.running(stage="score"))
    bench.service.control(preempt=[scorer["id"]], boot_s=0.0)
    billed_s = 0.0
    for job in jobs:
        end = await bench.see(job, "ended", compute=compute)
        billed_s += end.device_s or 0.0
        assert end.result is not None and (end.result.state, end.result.val_bpb) == ("finished", 1.25)
    scorers = [[job.id for job in jobs if any(job.id in text for text in c["argv"])] for c in bench.service.containers(stage="score")]
    together, *alone = [ids for ids in scorers if ids]
    assert sorted(together) == sorted(job.id for job in jobs) == sorted(id for (id,) in alone)
    assert billed_s >= (len(jobs) + 1 + len(alone)) * context.BOOT_S, "what scored nothing is paid for, too"
    await compute.close()


@pytest.mark.parametrize("orders", ["submit", "submit late", "submit old"])
async def test_the_hidden_score_comes_in_a_file_of_its_own(bench: Bench, orders: str) -> None:
    job = bench.job(orders)
    await bench.compute.submit(job)
    end = await bench.see(job, "ended")
    assert end.result is not None and end.result.val_bpb == 1.25 and protocol.read_hidden(job.directory) == 1.75
    assert (job.directory / protocol.HIDDEN).stat().st_mode & 0o077 == 0
    assert all("1.75" not in path.read_text(encoding="utf-8") for path in job.directory.glob("*.*") if path.name != protocol.HIDDEN)


async def test_a_score_that_makes_no_sense_ends_its_own_job_alone(bench: Bench) -> None:
    compute, jobs = bench.make(patience_s=60.0), [bench.job(orders) for orders in ("submit", "submit unreadable", "submit", "submit")]
    for job in jobs:
        await compute.submit(job)
    ends = [await bench.see(job, "ended", compute=compute) for job in jobs]
    assert [end.result.val_bpb if end.result else end.reason for end in ends] == [
        1.25,
        "the result's val_bpb is not of its type.",
        1.25,
        1.25,
    ]
    again = await bench.make().observe(jobs[1])
    assert (again.phase, again.result, again.reason) == ("ended", None, ends[1].reason), "an end is for good"
    await compute.close()


async def ended_unseen(bench: Bench) -> Job:
    """A job that ended while no backend was there to see it."""
    job = bench.job("hold")
    await bench.compute.submit(job)
    await bench.running(job)
    await bench.compute.close()
    (bench.out(job) / "go").touch()
    await eventually(lambda: not bench.service.running(experiment=job.id))
    return job


async def test_what_ended_while_nobody_looked_is_found_on_the_volume(bench: Bench) -> None:
    job = await ended_unseen(bench)
    later = bench.make()
    assert await later.adopt(replace(job, files={}))
    end = await bench.see(job, "ended", compute=later)
    assert end.result is not None and end.result.state == "finished" and len(bench.containers(job)) == 1
    await later.close()


async def test_a_result_that_the_volume_shows_late_is_waited_for(bench: Bench) -> None:
    job = await ended_unseen(bench)
    for file in (protocol.RESULT, protocol.BEGUN):
        (bench.out(job) / file).rename(bench.scratch / file)
    protocol.write_json(bench.out(job) / protocol.BEGUN, {"begun": 1.0})  # an earlier commit of the volume's
    later = bench.make()
    reads = bench.service.control()["calls"]["VolumeGetFile2"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(later.adopt, replace(job, files={}))
        await eventually(lambda: bench.service.control()["calls"]["VolumeGetFile2"] > reads + 2)
        for file in (protocol.BEGUN, protocol.RESULT):
            (bench.scratch / file).rename(bench.out(job) / file)
    end = await bench.see(job, "ended", compute=later)
    assert end.result is not None and end.result.state == "finished" and end.device_s and end.device_s < 60
    await later.close()


@pytest.mark.parametrize("file", [sandbox_job.SANDBOX, protocol.RESULT])
async def test_a_disk_that_is_full_for_a_while_loses_no_training(bench: Bench, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "RETRY_S", (0.1, 0.2))
    write, refused = protocol.write_json, []

    def full(path: Path, value: object) -> None:
        if path.name == file and len(refused) < 2:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, value)

    monkeypatch.setattr(protocol, "write_json", full)
    job = bench.job("hold")
    await bench.compute.submit(job)
    await bench.running(job)
    (bench.out(job) / "go").touch()
    end = await bench.see(job, "ended")
    assert len(refused) == 2 and end.result is not None and end.result.state == "finished" and len(bench.containers(job)) == 1
    assert await bench.compute.cost(job.directory), "its sandbox is known all the same"


async def test_orphans_of_this_lab_are_ended_and_nothing_else(bench: Bench) -> None:
    orphan, kept = bench.job("hold"), bench.job("hold")
    for job in (orphan, kept):
        await bench.compute.submit(job)
        await bench.running(job)
    await bench.compute.close()  # whoever knew of them is gone
    found = deployment.load(bench.state)
    service, mine = Service(found.environment, found.app), {(kept.id, 1)}
    stranger = replace(found, lab="l-another")
    assert await end_orphans(service, stranger, set) == []
    (told,) = await end_orphans(service, found, lambda: mine, dry_run=True)
    assert orphan.id in told and bench.service.running(experiment=orphan.id)
    assert await end_orphans(service, found, lambda: mine) == [told]
    await eventually(lambda: not bench.service.running(experiment=orphan.id))
    assert bench.service.running(experiment=kept.id)


async def test_the_providers_bill_counts_the_training_and_a_share_of_the_scoring(bench: Bench) -> None:
    job = bench.job("submit")
    await bench.compute.submit(job)
    await bench.see(job, "ended")
    await eventually(lambda: not bench.service.running(stage="score"))
    seconds = {
        c["tags"]["stage"]: c["finished_at"] - c["started_at"] for c in bench.service.containers() if any(job.id in t for t in c["argv"])
    }
    assert await bench.compute.cost(job.directory) == pytest.approx(
        bench.service.USD_S * (seconds.get("train", 0) + seconds["score"]), abs=0.01
    )
    assert await bench.compute.cost(bench.scratch) is None
