"""Launches and cancels over a wire that is cut: closed at once, reset in the middle, stalled, never answered.

A stall outlasts ssh's patience, which gives the line up. `make crash-test` has the patience of a lab; the suite a shorter one.
"""

import os
import random
import shlex
import sys
from collections import Counter
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.line.transport import Patience
from autoresearch_mcp.server.compute.ssh import host as host_module
from autoresearch_mcp.server.compute.ssh.backend import SshCompute
from autoresearch_mcp.server.compute.ssh.host import Wanted
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.trainer import protocol
from tests.standins.sshd import Hosts
from tests.standins.wire import Wire, port_of
from tests.waiting import until

DRAWING = Path(__file__).parents[3] / "bench" / "drawing_launcher.py"
LAUNCHES = int(os.environ.get("AUTORESEARCH_CUTS", "10"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))
PATIENCE, STALL_S = (Patience(), 90.0) if LAUNCHES > 10 else (Patience(connect_s=1, alive_s=1, request_s=8.0), 30.0)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cuts_of_the_wire_lose_nothing_double_nothing_and_leave_nothing_running(
    ssh_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make crash-test` cuts it in AUTORESEARCH_CUTS launches, and stalls it for 90 s."""
    monkeypatch.setattr(host_module, "RETRY_S", (0.1, 1.0))
    dice = random.Random(SEED)
    wire = Wire(port_of(ssh_hosts.config), dice, after_s=2.0, stall_s=STALL_S)
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {ssh_hosts.ssh} -o Port={wire.port} -o HostKeyAlias=wire "$@"\n', encoding="utf-8")
    ssh.chmod(0o755)
    drawing = shlex.join([sys.executable, str(DRAWING), "0.3", "0.5"])
    count = f'nice() {{ echo "$6" >> {tmp_path}/starts; {drawing} "$6"; echo "$6" >> {tmp_path}/ends; }}'
    section = HostSection(python=sys.executable, before=[count])
    compute = SshCompute(
        Wanted("tiny", None), 1, tmp_path / "state", ["box:0,1,2,3"], {"box": section}, str(ssh), round_s=0.1, patience=PATIENCE
    )
    wire.whole = True
    data = await compute.prepare()
    wire.whole = False
    jobs, cancelled, ends = dict[str, Job](), set[str](), dict[str, Observation]()

    def is_enough() -> bool:
        return len(jobs) >= LAUNCHES and sum(wire.cuts.values()) >= LAUNCHES / 2 and wire.given_up > 0

    with anyio.fail_after(60 + 30 * LAUNCHES):
        while not is_enough() or len(ends) < len(jobs):
            if len(jobs) - len(ends) < 4 and not is_enough():
                id = new_id("e")
                jobs[id] = Job(id, 1, tmp_path / id / "1", protocol.Spec(id, 1, "tiny", 20.0, 1, data), {"train.py": b"#" * 100_000})
                await compute.submit(jobs[id])
            for id in jobs.keys() - ends.keys():
                if (now := await compute.observe(jobs[id])).phase in ("ended", "lost", "refused"):
                    ends[id] = now
                elif id not in cancelled and dice.random() < 0.005:
                    await compute.cancel(jobs[id])
                    cancelled.add(id)
            await anyio.sleep(compute.poll_s)
    await compute.close()
    print(f"\nseed {SEED}: {len(jobs)} launches, {len(cancelled)} cancelled, cuts of the wire: {wire.cuts}, given up: {wire.given_up}")
    until(lambda: wire.given_up >= wire.cuts["stalled"] + wire.cuts["dropped"])  # none of them was waited out
    wire.close()
    until(lambda: count_lines(tmp_path / "starts") == count_lines(tmp_path / "ends"))  # nothing runs on
    began = count_lines(tmp_path / "starts")
    assert sum(wire.cuts.values()) >= LAUNCHES / 2, "the wire held"
    for id, end in ends.items():
        states = [end.result.state] if end.result else ["never started"] if end.never_started else [end.phase, end.reason]
        assert began[id] <= 1, "a run was begun twice"
        assert states == ["finished"] or (id in cancelled and states in (["cancelled"], ["never started"])), states
        assert began[id] == 1 or states == ["never started"]


def count_lines(path: Path) -> Counter[str]:
    """How often each experiment's run stands in a file."""
    return Counter(Path(line).parent.name for line in path.read_text(encoding="utf-8").splitlines())
