"""Launches and cancels over a wire that is cut: closed at once, reset in the middle, stalled, never answered. It leads to a host that trains,
or to the login node of a real Slurm.

A stall outlasts ssh's patience, which gives the line up. `make crash-test` has the patience of a lab; the suite a shorter one.
"""

import contextlib
import math
import os
import random
import shlex
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server.compute.base import Compute, Job, Observation
from autoresearch_mcp.server.compute.line import sending
from autoresearch_mcp.server.compute.line.transport import Patience, Ssh
from autoresearch_mcp.server.compute.slurm import backend as slurm_module
from autoresearch_mcp.server.compute.slurm.backend import Pace, SlurmCompute
from autoresearch_mcp.server.compute.ssh import host as host_module
from autoresearch_mcp.server.compute.ssh.backend import SshCompute
from autoresearch_mcp.server.compute.ssh.host import Wanted
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.settings import SlurmSection
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.trainer import protocol
from tests.server.compute.jobs import ENDS
from tests.standins.sshd import Hosts
from tests.standins.wire import Wire, port_of
from tests.waiting import until

DRAWING = shlex.join([sys.executable, str(Path(__file__).parents[2] / "bench" / "drawing_launcher.py"), "0.3", "0.5"])
LAUNCHES = int(os.environ.get("AUTORESEARCH_CUTS", "6"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))
PATIENCE, STALL_S = (Patience(), 90.0) if LAUNCHES > 10 else (Patience(connect_s=1, alive_s=1, request_s=8.0), 30.0)


def to_a_host(ssh: str, tmp_path: Path) -> Compute:
    count = f'nice() {{ echo "$6" >> {tmp_path}/starts; {DRAWING} "$6"; echo "$6" >> {tmp_path}/ends; }}'
    section = HostSection(python=sys.executable, before=[count])
    return SshCompute(Wanted("", None), 1, tmp_path / "state", ["box:0,1,2,3"], {"box": section}, ssh, round_s=0.1, patience=PATIENCE)


def to_a_login_node(ssh: str, tmp_path: Path) -> Compute:
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
[ "$2" = autoresearch_mcp.trainer.launch ] || exec {sys.executable} "$@"
trap "" TERM  # what it starts sees that it is to end
echo "$3" >> {tmp_path}/starts; {DRAWING} "$3"; echo "$3" >> {tmp_path}/ends
""",
        encoding="utf-8",
    )
    python.chmod(0o755)
    section, line = SlurmSection(folder=f"{tmp_path}/shared", python=str(python)), Ssh("other", sys.executable, ssh, PATIENCE)
    return SlurmCompute("tiny", 1, tmp_path / "state", tmp_path / "log", section, pace=Pace(0.4, 0.5), login=line)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("name", "make", "after_s"), [("box", to_a_host, 2.0), ("other", to_a_login_node, 5.0)])
async def test_cuts_of_the_wire_lose_nothing_double_nothing_and_leave_nothing_running(
    name: str,
    make: Callable[[str, Path], Compute],
    after_s: float,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`make crash-test` cuts it in AUTORESEARCH_CUTS launches, and stalls it for 90 s."""
    hosts: Hosts = request.getfixturevalue("ssh_hosts")
    if make is to_a_login_node:
        request.getfixturevalue("login_node")
    monkeypatch.setattr(host_module, "RETRY_S", (0.1, 1.0))
    monkeypatch.setattr(slurm_module, "SUBMIT_RETRY_S", (0.1, 1.0))
    monkeypatch.setattr(slurm_module, "ASK_AGAIN_S", 1.0)
    monkeypatch.setattr(sending, "PIECE", 100_000)
    dice = random.Random(SEED)
    wire = Wire(port_of(hosts.config, name), dice, after_s=after_s, stall_s=STALL_S)
    ssh, data = tmp_path / "ssh", tmp_path / "data"
    ssh.write_text(f'#!/bin/sh\nexec {hosts.ssh} -o Port={wire.port} -o HostKeyAlias=wire "$@"\n', encoding="utf-8")
    ssh.chmod(0o755)
    data.mkdir()
    (data / "owned").write_bytes(os.urandom(150_000))
    compute = make(str(ssh), tmp_path)
    if make is to_a_host:  # else a job does it
        wire.whole = True
        await compute.prepare()
        wire.whole = False
    jobs, ends = dict[str, Job](), dict[str, Observation]()
    unwanted_at, cancelled = dict[str, float](), set[str]()

    def is_enough() -> bool:
        return len(jobs) >= LAUNCHES and sum(wire.cuts.values()) >= LAUNCHES / 2 and wire.given_up > 0

    with anyio.fail_after(60 + 30 * LAUNCHES):
        while not is_enough() or len(ends) < len(jobs):
            if len(jobs) - len(ends) < 4 and not is_enough():
                id = new_id("e")
                spec = protocol.Spec(id, 1, "tiny", 20.0, 1, "", readable=str(data))
                jobs[id] = Job(id, 1, tmp_path / id / "1", spec, {"train.py": b"#" * 100_000})
                if dice.random() < 0.3:
                    unwanted_at[id] = time.monotonic() + dice.uniform(0, 5)
                await compute.submit(jobs[id])
            for id in jobs.keys() - ends.keys():
                if (now := await compute.observe(jobs[id])).phase in ENDS:
                    ends[id] = now
                elif time.monotonic() > unwanted_at.get(id, math.inf):
                    cancelled.add(id)
                    await compute.cancel(jobs[id])  # as the runner does in each round
            await anyio.sleep(0.1)
    await compute.close()
    print(f"\nseed {SEED}: {len(jobs)} launches, {len(cancelled)} cancelled, cuts of the wire: {wire.cuts}, given up: {wire.given_up}")
    until(lambda: wire.given_up >= wire.cuts["stalled"] + wire.cuts["dropped"])  # none of them was waited out
    wire.close()
    until(lambda: count_lines(tmp_path / "starts") == count_lines(tmp_path / "ends"))  # nothing runs on
    if make is to_a_login_node:
        until(lambda: all(id not in queue() for id in jobs), 30)  # nor waits
    began = count_lines(tmp_path / "starts")
    assert sum(wire.cuts.values()) >= LAUNCHES / 2, "the wire held"
    for id, end in ends.items():
        states = [end.result.state] if end.result else ["never started"] if end.never_started else [end.phase, end.reason]
        assert began[id] <= 1, "a run was begun twice"
        assert states == ["finished"] or (id in cancelled and states in (["cancelled"], ["never started"])), states
        assert began[id] == 1 or states == ["never started"]


class Stalls(random.Random):
    """Dice by which every connection stalls at once."""

    def choice(self, seq: Any) -> Any:
        return seq[seq.index("stalled")]

    def uniform(self, a: float, b: float) -> float:
        return 0.0


def test_the_wire_sees_a_client_go_that_had_more_to_say_than_was_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        wire = Wire(target.getsockname()[1], Stalls(), after_s=0, stall_s=1.0)
        with socket.create_connection(("127.0.0.1", wire.port)) as client, contextlib.suppress(BlockingIOError):
            client.setblocking(False)
            while client.send(bytes(1 << 16)):
                pass
        until(lambda: wire.cuts["stalled"] == wire.given_up == 1)
        wire.close()


def count_lines(path: Path) -> Counter[str]:
    """How often each experiment's run stands in a file."""
    return Counter(Path(line).parent.name for line in path.read_text(encoding="utf-8").splitlines()) if path.exists() else Counter()


def queue() -> str:
    """The names of jobs that wait or run."""
    return subprocess.run(["squeue", "-h", "-o", "%j"], check=True, capture_output=True, text=True, timeout=30).stdout
