"""What renting adds, against Modal's stand-in: time and calls of an experiment beside the bare client's, and the CPU of a runner that waits for many."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute.base import Job
from autoresearch_mcp.server.compute.modal import deployment
from autoresearch_mcp.server.compute.modal.backend import ModalCompute
from autoresearch_mcp.server.compute.modal.setup import set_up
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import protocol
from tests.server.compute.modal.rented_lab import RentedLab
from tests.standins.modal.plane import REPOSITORY
from tests.standins.modal.runner import NOOP
from tests.standins.modal.standin import Standin, standin
from tests.waiting import until

EXPERIMENTS = 6
SANDBOXES = 100
WINDOW_S = 15.0  # in which each sandbox is looked at once
# Begins at once and says nothing more: 100 of the no-op trainer's interpreters would take longer to start than all else here.
FIRST_LINE = json.dumps({"begun": 1.0, "progress": asdict(protocol.Progress("running", 0.1))})
QUIET = ("python3", "-I", "-S", "-u", "-c", f"import signal; print({FIRST_LINE!r}); signal.pause()")


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    root, state = scratch / "rented", scratch / "rented" / ".autoresearch"
    create_lab(root, profile="tiny")
    toml = (root / "lab.toml").read_text(encoding="utf-8").replace('backend = "local"', 'backend = "modal"')
    (root / "lab.toml").write_text(toml.replace("slots = 0", f"slots = {SANDBOXES}"), encoding="utf-8")
    state.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, standin(Path(place)) as service:
        os.environ.update(service.environment)
        try:
            anyio.run(set_up, state, "tiny", "autoresearch", "autoresearch")
            return [*anyio.run(_submissions, service, state, scratch), _waiting(service, root)]
        finally:
            for name in service.environment:
                del os.environ[name]


async def _submissions(service: Standin, state: Path, scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Sandboxes that train nothing, one after the other, each by our backend and by the client alone; the first of both warms up."""
    compute, deployed = ModalCompute("tiny", state, requests(), NOOP), deployment.load(state)
    took: dict[str, list[float]] = {"ours": [], "bare": []}
    calls: dict[str, list[int]] = {"ours": [], "bare": []}
    for _ in range(1 + EXPERIMENTS):
        for name, run in (("ours", _ours(compute, scratch)), ("bare", _bare(deployed, scratch))):
            before, began = _calls(service), time.perf_counter()
            await run
            took[name].append(time.perf_counter() - began)
            calls[name].append(_calls(service) - before)
    await compute.close()
    (mine, bare), (asked, needed) = [[statistics.median(each[name][1:]) for name in ("ours", "bare")] for each in (took, calls)]
    return [
        ("a rented experiment, submission to result", f"{mine:.2f} s", f"{bare:.2f} s (bare client: create, poll)", f"{mine / bare:.2f}", "1.2"),
        ("  its calls to the service", f"{asked:g}", f"{needed:g}", f"{asked / needed:.2f}", ""),
    ]  # fmt: skip


def _calls(service: Standin) -> int:
    return sum(service.control()["calls"].values())


def _job(scratch: Path) -> Job:
    id = new_id("e")
    return Job(id, 1, scratch / "jobs" / id / "1", protocol.Spec(id, 1, "tiny", 1.0, 1, deployment.TRAINING), {"train.py": b"# now\n"})


async def _ours(compute: ModalCompute, scratch: Path) -> None:
    job = _job(scratch)
    await compute.submit(job)
    while (end := await compute.observe(job)).phase != "ended":  # noqa: ASYNC110
        await anyio.sleep(0.02)
    assert end.result is not None and end.result.state == "finished"


async def _bare(deployed: deployment.Deployment, scratch: Path) -> None:
    import modal

    job = _job(scratch)
    code = job.directory / protocol.CODE
    code.mkdir(parents=True)
    (code / "train.py").write_bytes(job.files["train.py"])

    def volume(name: str, **options: Any) -> Any:
        return modal.Volume.from_name(name, environment_name=deployed.environment, version=2).with_mount_options(**options)

    sandbox = await modal.Sandbox.create.aio(
        *NOOP, "train", json.dumps(asdict(job.spec)), "/run/code", "/out",
        app=await modal.App.lookup.aio(deployed.app, environment_name=deployed.environment),
        name=f"{job.id}-1",
        image=modal.Image.from_id(deployed.image).add_local_dir(code, "/run/code"),
        timeout=300,
        block_network=True,
        volumes={"/training": volume(deployed.training, read_only=True), "/out": volume(deployed.runs, sub_path=f"/{job.id}")},
    )  # fmt: skip
    while await sandbox.poll.aio() is None:  # noqa: ASYNC110
        await anyio.sleep(0.02)


def _waiting(service: Standin, root: Path) -> tuple[str, str, str, str, str]:
    deployed = deployment.load(root / ".autoresearch")
    command = [sys.executable, "-m", "tests.bench.bare_streams", deployed.environment, deployed.app]
    with closing(RentedLab(service, root)) as lab:
        ids = lab.enqueue(SANDBOXES, lab.orders("quiet"))
        runner = lab.runner(*QUIET)
        until(lambda: lab.states(ids) == {"running": SANDBOXES}, 120)
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as streams:
            assert streams.stdout is not None and int(streams.stdout.readline()) == SANDBOXES
            before = [_cpu_s(process.pid) for process in (runner, streams)]
            time.sleep(WINDOW_S)
            mine, bare = (_cpu_s(process.pid) - cpu_s for process, cpu_s in zip((runner, streams), before))
            streams.kill()
    what = f"runner's CPU, {SANDBOXES} quiet sandboxes, of a core"
    return what, f"{100 * mine / WINDOW_S:.1f} %", f"{100 * bare / WINDOW_S:.1f} % (bare client: their log streams)", "", "10 %"


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for row in measure(Path(scratch)):
            print(*(cell for cell in row if cell), sep=" | ")
