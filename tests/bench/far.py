"""What ssh adds: an experiment that trains nothing on a host behind a real sshd, beside a bare `ssh host true` on a warm connection, where
each command takes `LATENCY_S` to arrive; and what 8 hosts with 64 runs ask of the lab.
"""

import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

from autoresearch_mcp.server.compute.base import Compute, Job
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.compute.ssh.backend import SshCompute
from autoresearch_mcp.server.compute.ssh.host import Wanted
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.trainer import protocol
from tests.standins.sshd import hosts, why_missing

EXPERIMENTS = 10
LATENCY_S = 0.35
HOSTS, RUNS, PASSES = 8, 64, 50
DRAWING = Path(__file__).with_name("drawing_launcher.py")


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    if why := why_missing():
        return [("a no-op experiment over ssh", why, "", "", "")]
    names = [f"h{n}" for n in range(HOSTS)]
    with tempfile.TemporaryDirectory() as place, hosts(Path(place) / "hosts", names) as running:
        slow, counted = scratch / "slow-ssh", scratch / "counted-ssh"
        slow.write_text(f'#!/bin/sh\nsleep {LATENCY_S}\nexec {running.ssh} "$@"\n', encoding="utf-8")
        counted.write_text(
            f"""#!/bin/sh
for word in "$@"; do [ "$last" = -- ] && host=$word; last=$word; done
mkdir {scratch}/at-$host 2> /dev/null || echo "$host" >> {scratch}/two-at-once
{running.ssh} "$@"; status=$?
rmdir {scratch}/at-$host; echo "$host" >> {scratch}/commands; exit $status
""",
            encoding="utf-8",
        )
        for program in (slow, counted):
            program.chmod(0o755)
        here, far, bare = anyio.run(_experiments, str(slow), scratch)
        round_s, passes_s = anyio.run(_many, str(counted), names, scratch)
    added = far - here
    twice, commands = (
        len((scratch / name).read_text().split()) if (scratch / name).exists() else 0 for name in ("two-at-once", "commands")
    )
    return [
        (
            f"a no-op experiment over ssh, {LATENCY_S} s a command: what it adds",
            f"{added:.2f} s",
            f"{bare:.2f} s: ssh h0 true",
            f"{added / bare:.1f}",
            "0.3 s more than the command",
        ),
        (f"{HOSTS} hosts, {RUNS} runs: commands beside another of their host", str(twice), f"{commands} commands", "", "0"),
        (f"{HOSTS} hosts, {RUNS} runs: CPU of a round", f"{round_s * 1e3:.1f} ms", f"{passes_s:.2f} s a round with its pause", "", "20 ms"),
    ]


def _line(seconds: float) -> str:
    return f'nice() {{ {shlex.join([sys.executable, str(DRAWING), str(seconds), "0"])} "$6"; }}'


async def _experiments(ssh: str, scratch: Path) -> tuple[float, float, float]:
    """Return the median seconds of an experiment here and there, and of a bare command; interleaved, the first of each warms up."""
    local = LocalCompute("tiny", 1, scratch / "far.log", (sys.executable, str(DRAWING), "0", "0"), warm=False)
    section = HostSection(python=sys.executable, before=[_line(0)])
    remote = SshCompute(Wanted("tiny", None), 1, scratch / "far", ["h0"], {"h0": section}, ssh)
    took: dict[str, list[float]] = {"here": [], "far": [], "bare": []}
    for _ in range(1 + EXPERIMENTS):
        for name, compute in (("here", local), ("far", remote)):
            took[name].append(await _experiment(compute, scratch))
        began = time.monotonic()
        multiplexed = ["-o", "ControlMaster=auto", "-o", f"ControlPath={scratch}/%C", "-o", "ControlPersist=60"]
        await anyio.run_process([ssh, *multiplexed, "h0", "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took["bare"].append(time.monotonic() - began)
    for opened in (local, remote):
        await opened.close()
    here, far, bare = (statistics.median(each[1:]) for each in took.values())
    return here, far, bare


async def _experiment(compute: Compute, scratch: Path) -> float:
    job = await _job(compute, scratch)
    began = time.monotonic()
    await compute.submit(job)
    while (await compute.observe(job)).phase not in ("ended", "lost", "refused"):  # noqa: ASYNC110
        await anyio.sleep(0.01)
    return time.monotonic() - began


async def _job(compute: Compute, scratch: Path) -> Job:
    id = new_id("e")
    return Job(id, 1, scratch / "runs" / id / "1", protocol.Spec(id, 1, "tiny", 20.0, 1, await compute.prepare()), {"train.py": b""})


async def _many(ssh: str, names: list[str], scratch: Path) -> tuple[float, float]:
    """Return the CPU seconds of a round of the runner over all runs, requests included, and how long a round takes with its pause."""
    sections = {name: HostSection(python=sys.executable, before=[_line(600)]) for name in names}
    gpus = ",".join(map(str, range(RUNS // HOSTS)))
    compute = SshCompute(Wanted("tiny", None), 1, scratch / "many", [f"{name}:{gpus}" for name in names], sections, ssh)
    jobs = [await _job(compute, scratch) for _ in range(RUNS)]
    for job in jobs:
        await compute.submit(job)
    while any([(await compute.observe(job)).phase != "running" for job in jobs]):  # noqa: ASYNC110
        await anyio.sleep(compute.poll_s)
    began, cpu_s = time.monotonic(), time.process_time()
    for _ in range(PASSES):
        for job in jobs:
            await compute.observe(job)
        await anyio.sleep(compute.poll_s)
    spent_s, took_s = time.process_time() - cpu_s, time.monotonic() - began
    for job in jobs:
        await compute.cancel(job)
    while any([(await compute.observe(job)).phase == "running" for job in jobs]):  # noqa: ASYNC110
        await anyio.sleep(compute.poll_s)
    await compute.close()
    return spent_s / PASSES, took_s / PASSES
