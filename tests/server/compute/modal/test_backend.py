"""The backend on Modal's stand-in: what a sandbox gets, what is asked of the service, orphans, and bills.

Real trainings are in `test_contract.py` and in `tests/acceptance/test_modal.py`.
"""

import base64
from dataclasses import replace
from typing import Any

import pytest
from modal_proto import api_grpc

from autoresearch_mcp.server.compute.modal import deployment
from autoresearch_mcp.server.compute.modal.backend import end_orphans
from autoresearch_mcp.server.compute.modal.client import Service
from tests.server.compute.modal.harness import BackendHarness, eventually
from tests.standins.modal.runner import NOOP

pytestmark = pytest.mark.anyio


async def test_a_trainer_gets_a_pinned_gpu_its_data_and_no_secret_and_a_scorer_what_it_measures_with(harness: BackendHarness) -> None:
    job = harness.job("submit", device="h100")
    await harness.compute.submit(job)
    end = await harness.see(job, "ended")
    assert end.result is not None and end.result.val_bpb == 1.25
    (trainer,) = harness.containers(job)
    (scorer,) = [c for c in harness.service.containers(stage="score") if any(job.id in text for text in c["argv"])]
    lab = deployment.load(harness.state)
    assert trainer["volumes"] == {
        deployment.TRAINING: [lab.training, True, ""],
        deployment.OUT: [lab.runs, False, f"/{job.id}/1"],
    }
    assert scorer["volumes"] == {deployment.EVALUATION: [lab.evaluation, True, ""], deployment.RUNS: [lab.runs, False, ""]}
    assert (trainer["name"], trainer["tags"]["lab"], trainer["tags"]["attempt"]) == (f"{job.id}-1", lab.lab, "1")
    for container in (trainer, scorer):
        assert (container["gpu"], container["network"], container["secrets"], container["image"]) == ("H100!", False, [], lab.image)
        assert not any("standin" in text for text in (*container["environment"].values(), *container["argv"]) if text.startswith("a"))


async def test_every_request_is_one_that_the_services_own_types_can_express(harness: BackendHarness) -> None:
    """Decoded by the client library's generated types, nothing unknown is left over, and the fields that matter hold what was meant."""
    job = harness.job("submit", device="h100")
    await harness.compute.submit(job)
    await harness.see(job, "ended")
    await eventually(lambda: not harness.service.running(stage="score"))
    assert await harness.compute.adopt(job) and await harness.compute.orphans(set) == [] and await harness.compute.cost(job.directory)
    assert not await harness.compute.adopt(harness.job())
    state = harness.service.control()
    types = {path.rpartition("/")[2]: handler for path, handler in api_grpc.ModalClientBase.__mapping__(AnyPlane()).items()}
    requests_made = {name: types[name].request_type.FromString(base64.b64decode(raw)) for name, raw in state["requests"].items()}
    assert state["unimplemented"] == []
    assert {
        "SandboxCreate",
        "SandboxList",
        "AppGetOrCreate",
        "VolumeGetFile2",
        "SandboxGetLogs",
        "ImageGetOrCreate",
    } <= requests_made.keys()
    for name, message in requests_made.items():
        assert (message.ByteSize() or not message.DESCRIPTOR.fields) and not unknown_fields(message), name
    wanted = requests_made["SandboxCreate"].definition
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


async def test_two_submitters_of_one_job_share_one_sandbox(harness: BackendHarness) -> None:
    job, other = harness.job("hold"), harness.make()
    await harness.compute.submit(job)
    await other.submit(job)
    await harness.running(job)
    (harness.out(job) / "go").touch()
    ends = [await harness.see(job, "ended", compute=compute) for compute in (harness.compute, other)]
    assert all(end.result and end.result.state == "finished" for end in ends)
    assert len(harness.containers(job)) == 1 and (harness.out(job) / "starts").read_text(encoding="utf-8").count("started") == 1
    await other.close()


async def test_orphans_of_this_lab_are_ended_and_nothing_else(harness: BackendHarness) -> None:
    orphan, kept = harness.job("hold"), harness.job("hold")
    for job in (orphan, kept):
        await harness.compute.submit(job)
        await harness.running(job)
    await harness.compute.close()  # nobody knows of them now
    lab = deployment.load(harness.state)
    service, mine = Service(lab.environment, lab.app), {(kept.id, 1)}
    stranger = replace(lab, lab="l-another")
    assert await end_orphans(service, stranger, set) == []
    (orphaned,) = await end_orphans(service, lab, lambda: mine, dry_run=True)
    assert orphan.id in orphaned and harness.service.running(experiment=orphan.id)
    assert await end_orphans(service, lab, lambda: mine) == [orphaned]
    await eventually(lambda: not harness.service.running(experiment=orphan.id))
    assert harness.service.running(experiment=kept.id)


async def test_the_providers_bill_counts_the_training_and_a_share_of_the_scoring(harness: BackendHarness) -> None:
    job = harness.job("submit")
    await harness.compute.submit(job)
    await harness.see(job, "ended")
    await eventually(lambda: not harness.service.running(stage="score"))
    seconds = {
        c["tags"]["stage"]: c["finished_at"] - c["started_at"] for c in harness.service.containers() if any(job.id in t for t in c["argv"])
    }
    assert await harness.compute.cost(job.directory) == pytest.approx(
        harness.service.USD_S * (seconds.get("train", 0) + seconds["score"]), abs=0.01
    )
    assert await harness.compute.cost(harness.scratch) is None
