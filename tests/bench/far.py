"""What ssh adds: an experiment that trains nothing on a host behind a real sshd, beside a bare `ssh host true` on a warm connection."""

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
NOOP = [sys.executable, str(Path(__file__).with_name("drawing_launcher.py")), "0", "0"]


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    if why := why_missing():
        return [("a no-op experiment over ssh", why, "", "", "")]
    with tempfile.TemporaryDirectory() as place, hosts(Path(place) / "hosts", ("box",)) as running:
        here, far, bare = anyio.run(_experiments, running.ssh, scratch)
    added = far - here
    return [
        ("a no-op experiment: what ssh adds", f"{added:.2f} s", f"{bare:.2f} s: ssh box true", f"{added / bare:.1f}", "0.3 s at 0.35 s")
    ]


async def _experiments(ssh: str, scratch: Path) -> tuple[float, float, float]:
    """Return the median seconds of an experiment here and there, and of a bare command; interleaved, the first of each warms up."""
    local = LocalCompute("tiny", 1, scratch / "far.log", tuple(NOOP), warm=False)
    section = HostSection(python=sys.executable, before=[f'nice() {{ {shlex.join(NOOP)} "$6"; }}'])
    remote = SshCompute(Wanted("tiny", None), 1, scratch / "far", ["box"], {"box": section}, ssh)
    took: dict[str, list[float]] = {"here": [], "far": [], "bare": []}
    for _ in range(1 + EXPERIMENTS):
        for name, compute in (("here", local), ("far", remote)):
            took[name].append(await _experiment(compute, scratch))
        began = time.monotonic()
        multiplexed = ["-o", "ControlMaster=auto", "-o", f"ControlPath={scratch}/%C", "-o", "ControlPersist=60"]
        await anyio.run_process([ssh, *multiplexed, "box", "true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        took["bare"].append(time.monotonic() - began)
    for opened in (local, remote):
        await opened.close()
    here, far, bare = (statistics.median(each[1:]) for each in took.values())
    return here, far, bare


async def _experiment(compute: Compute, scratch: Path) -> float:
    id = new_id("e")
    job = Job(id, 1, scratch / "runs" / id / "1", protocol.Spec(id, 1, "tiny", 20.0, 1, await compute.prepare()), {"train.py": b""})
    began = time.monotonic()
    await compute.submit(job)
    while (await compute.observe(job)).phase not in ("ended", "lost", "refused"):  # noqa: ASYNC110
        await anyio.sleep(0.01)
    return time.monotonic() - began
