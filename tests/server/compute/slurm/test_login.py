"""Jobs of a real Slurm whose login node is behind a real sshd: what is asked there and how often, and a line that fails."""

import contextlib
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import anyio
import pytest
from pydantic import ValidationError

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.doctor import examine
from autoresearch_mcp.server.compute import open_compute
from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.line.transport import Ssh
from autoresearch_mcp.server.compute.slurm import backend as backend_module
from autoresearch_mcp.server.compute.slurm.backend import FAR, Pace, SlurmCompute
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import protocol
from tests.server.compute.jobs import ENDS, see, submitted
from tests.standins.sshd import Hosts

pytestmark = pytest.mark.anyio
DRAWING = Path(__file__).parents[3] / "bench" / "drawing_launcher.py"

Make = Callable[..., SlurmCompute]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a lab and the files of its cluster, whose data is prepared once."""
    return tmp_path_factory.mktemp("prepared")


async def let_go(cluster: Path) -> None:
    """Wait until Slurm has let go of the jobs that ran: their results are there before."""
    squeue = partial(anyio.run_process, ["squeue", "-h", "-o", "%t"], env={**os.environ, "SLURM_CONF": str(cluster)})
    with anyio.fail_after(60):
        while b"R" in (states := (await squeue()).stdout) or b"CG" in states:  # noqa: ASYNC110
            await anyio.sleep(0.05)


@pytest.fixture
async def make(ssh_hosts: Hosts, login_node: str, tmp_path: Path, prepared: Path) -> AsyncIterator[Make]:
    """Makes backends of one lab, whose jobs take `seconds`. `launches` gets a line with the number of the Slurm job that each runs in."""
    made: list[SlurmCompute] = []
    python, ssh = tmp_path / "python", tmp_path / "ssh"
    request, cut, deaf, late = (tmp_path / name for name in ("request", "cut", "deaf", "late"))
    held, mute = tmp_path / "held", tmp_path / "mute"
    ssh.write_text(
        f"""#!/bin/sh
[ -e {cut} ] && {{ echo "Connection reset by peer" >&2; exit 255; }}
[ -e {deaf} ] || [ -e {late} ] || [ -e {held} ] || [ -e {mute} ] || exec {ssh_hosts.ssh} "$@"
cat > {request}
if grep -q '"give": ' {request}; then while [ -e {held} ]; do sleep 0.05; done; fi
[ ! -e {mute} ] || ! grep -q '"squeue"' {request} || exit 255
grep -q '"sbatch"' {request} || exec {ssh_hosts.ssh} "$@" < {request}
if [ -e {late} ]; then
  mv {request} {request}-2; rm {late}
  {{ until [ -s {tmp_path}/launches ]; do sleep 0.1; done; {ssh_hosts.ssh} "$@" < {request}-2; touch {tmp_path}/came; }} > /dev/null 2>&1 &
  exit 255
fi
{ssh_hosts.ssh} "$@" < {request} > {tmp_path}/lost; rm -f {deaf}; exit 255
""",
        encoding="utf-8",
    )
    ssh.chmod(0o755)

    def make(
        seconds: float = 0.2, pace: Pace | None = None, patch: str = "", place: Path = prepared, login: str = login_node
    ) -> SlurmCompute:
        drawn = shlex.join([sys.executable, str(DRAWING), str(seconds), "0.5"])
        begin = f'echo "$SLURM_JOB_ID" >> {tmp_path}/launches'
        python.write_text(
            f"""#!/bin/sh
case "$2" in
  autoresearch_mcp.trainer.launch) {begin}; exec {drawn} "$3";;
  autoresearch_mcp.trainer.prepare) {begin};;
  import*) exec {sys.executable} -c "{patch}$2";;
esac
exec {sys.executable} "$@"
""",
            encoding="utf-8",
        )
        python.chmod(0o755)
        section = settings.SlurmSection(folder=str(place / "shared"), python=str(python))
        line = Ssh(login, str(python), str(ssh))
        made.append(SlurmCompute("tiny", 1, place / "state", tmp_path / "log", section, pace=pace or Pace(0.3, 0.5), login=line))
        return made[-1]

    yield make
    for compute in made:
        with contextlib.suppress(ComputeError):  # box is no login node
            await compute.orphans(lambda: [])
        await compute.close()


def asked(hosts: Hosts, login: str) -> Counter[str]:
    """How often each of Slurm's commands was run on the login node."""
    commands = hosts.home(login) / "commands"
    return Counter(commands.read_text(encoding="ascii").split() if commands.exists() else [])


async def test_one_look_serves_all_jobs_and_nothing_runs_on_the_login_node_itself(
    make: Make, ssh_hosts: Hosts, login_node: str, slurm_cluster: Path, tmp_path: Path
) -> None:
    before, began = asked(ssh_hosts, login_node), time.monotonic()
    compute = make(pace=Pace(1.0, 1.0), place=tmp_path)
    jobs = [await submitted(compute, tmp_path) for _ in range(6)]
    for job in jobs:
        end = await see(compute, job, *ENDS)
        assert end.result is not None and end.result.state == "finished" and end.device_s is not None and end.device_s < 60
        hidden = protocol.read_hidden(job.directory)
        assert hidden is not None and (job.directory / protocol.HIDDEN).stat().st_mode & 0o077 == 0
    looks = asked(ssh_hosts, login_node) - before
    assert looks["squeue"] <= (time.monotonic() - began) / 1.0 + 2, looks
    assert looks["sbatch"] == len(jobs) + 1  # one more prepares the data
    launches = (tmp_path / "launches").read_text(encoding="ascii").splitlines()
    assert len(launches) == len(jobs) + 1 and all(number.isdigit() for number in launches), launches
    again = make(place=tmp_path)
    assert await again.prepare() == jobs[0].spec.data and asked(ssh_hosts, login_node)["sbatch"] == before["sbatch"] + looks["sbatch"]
    await let_go(slurm_cluster)
    assert await again.orphans(lambda: []) == []
    assert not list((tmp_path / "shared").glob("lab-*/runs/*/*/spec.json"))


async def test_a_line_that_fails_loses_no_job_and_a_cancel_holds_until_it_is_back(
    make: Make, slurm_cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "ASK_AGAIN_S", 0.3)
    compute = make(seconds=600)
    job = await submitted(compute, tmp_path)
    await see(compute, job, "running")
    (tmp_path / "cut").touch()
    with anyio.fail_after(30):
        while not compute.troubles():
            assert (await compute.observe(job)).phase == "running"
            await anyio.sleep(0.05)
    away = "Slurm doesn't answer: other is away: Connection reset by peer. Trainings go on; what became of them is known when it is back."
    assert compute.troubles() == [away]
    await compute.cancel(job)
    assert await compute.adopt(job) and (await compute.observe(job)).phase == "running"
    (tmp_path / "cut").unlink()
    with anyio.fail_after(60):
        while (end := await compute.observe(job)).phase == "running":
            await compute.cancel(job)  # as the runner does in each round
            await anyio.sleep(0.05)
    assert end.result is not None and end.result.state == "cancelled"
    await let_go(slurm_cluster)
    await compute._queue.fresh(30.0, shared_s=0.0)  # a look from before is no answer
    assert await compute.orphans(lambda: []) == [] and not compute.troubles()


async def test_a_job_that_was_taken_while_the_answer_was_lost_is_not_handed_in_again(
    make: Make, ssh_hosts: Hosts, login_node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "SUBMIT_RETRY_S", (1.5, 1.5))
    compute = make(seconds=3)
    await compute.prepare()
    before = asked(ssh_hosts, login_node)["sbatch"]
    (tmp_path / "deaf").touch()
    job = await submitted(compute, tmp_path)
    assert (await see(compute, job, *ENDS)).result is not None
    assert not (tmp_path / "deaf").exists() and asked(ssh_hosts, login_node)["sbatch"] == before + 1


async def test_a_request_that_arrives_after_it_was_repeated_makes_a_job_that_does_nothing_and_hides_nothing(
    make: Make, ssh_hosts: Hosts, login_node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "SUBMIT_RETRY_S", (0.1, 0.1))
    compute = make(seconds=600)
    await compute.prepare()
    before = asked(ssh_hosts, login_node)["sbatch"]
    (tmp_path / "launches").unlink(missing_ok=True)
    (tmp_path / "late").touch()
    job = await submitted(compute, tmp_path)
    await see(compute, job, "running")
    squeue = partial(anyio.run_process, ["squeue", "-h", "--states=COMPLETED", "-o", "%j"])
    with anyio.fail_after(30):
        while not (tmp_path / "came").exists() or job.id.encode() not in (await squeue()).stdout:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    for _ in range(2):  # the second look comes after what an ended job left would have shown
        await compute._queue.fresh(30.0, shared_s=0.0)
        assert (await compute.observe(job)).phase == "running"
        await anyio.sleep(compute._pace.settle_s)
    await compute.cancel(job)
    end = await see(compute, job, "ended", "lost")
    assert end.result is not None and end.result.state == "cancelled"
    assert asked(ssh_hosts, login_node)["sbatch"] == before + 2
    assert len((tmp_path / "launches").read_text(encoding="ascii").splitlines()) == 1


async def test_a_run_that_ended_while_no_answer_came_is_not_handed_in_again(
    make: Make, ssh_hosts: Hosts, login_node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "SUBMIT_RETRY_S", (0.1, 0.1))
    compute = make()
    await compute.prepare()
    (tmp_path / "launches").unlink(missing_ok=True)
    (tmp_path / "mute").touch()
    job = await submitted(compute, tmp_path)
    assert (await see(compute, job, *ENDS)).result is not None
    with anyio.fail_after(20):
        while any("takes no more jobs" in trouble for trouble in compute.troubles()):  # noqa: ASYNC110
            await anyio.sleep(0.05)
    (tmp_path / "mute").unlink()
    await compute._queue.fresh(30.0, shared_s=0.0)  # one that was on its way as it was given up has arrived by then
    handed_in = asked(ssh_hosts, login_node)["sbatch"]
    lines = await compute._queue.fresh(30.0, shared_s=0.0)
    assert lines and f"ar-{compute._lab}-{job.id}-1" in lines
    assert asked(ssh_hosts, login_node)["sbatch"] == handed_in
    assert len((tmp_path / "launches").read_text(encoding="ascii").splitlines()) == 1


async def test_a_job_whose_folder_is_on_its_way_waits_says_so_and_can_be_cancelled(make: Make, tmp_path: Path) -> None:
    compute, id, data = make(), new_id("e"), tmp_path / "data"
    data.mkdir()
    (data / "file").touch()
    (tmp_path / "held").touch()
    spec = protocol.Spec(id, 1, "tiny", 20.0, 1, "", readable=str(data))
    job = Job(id, 1, tmp_path / id / "1", spec, {"train.py": b""})
    await compute.submit(job)
    with anyio.fail_after(30):
        while not compute.troubles():
            assert (await compute.observe(job)).phase == "starting"
            await anyio.sleep(0.05)
    assert compute.troubles() == ["other is being sent the folder of data. Trainings wait for it."]
    assert await compute.adopt(job)
    async with anyio.create_task_group() as group:
        group.start_soon(compute.cancel, job)
        await anyio.wait_all_tasks_blocked()
        (tmp_path / "held").unlink()
    assert (await see(compute, job, "lost")).never_started
    with anyio.fail_after(30):
        while compute.troubles():  # noqa: ASYNC110 - the folder's last piece is on its way
            await anyio.sleep(0.05)
    assert not (tmp_path / "launches").exists()


async def test_a_full_disk_or_quota_of_the_cluster_refuses_the_job_in_words(make: Make, tmp_path: Path) -> None:
    await make().prepare()
    for number, words in ((28, "No space left on device"), (122, "Disk quota exceeded")):
        full = f"import os, pathlib\ndef full(*_): raise OSError({number}, os.strerror({number}))\npathlib.Path.write_bytes = full\n"
        compute = make(patch=full)
        end = await see(compute, await submitted(compute, tmp_path), *ENDS)
        assert end.phase == "refused" and end.reason.startswith("The job could not be started on other: ") and words in end.reason, end
    make()  # the lab's last one can write


async def test_a_job_of_another_login_node_is_not_looked_for_in_this_one(make: Make, tmp_path: Path) -> None:
    compute = make(seconds=600)
    job = await submitted(compute, tmp_path)
    await see(compute, job, "running")
    for call in (make(login="box").observe, make(login="box").adopt):
        with pytest.raises(ComputeError, match=r'handed in through the login node other\. Set login = "other" in \[compute\] of lab\.toml'):
            await call(job)
    here = SlurmCompute("tiny", 1, tmp_path / "state", tmp_path / "log", settings.SlurmSection())
    with pytest.raises(ComputeError, match="through the login node other"):
        await here.observe(job)
    assert (await compute.observe(job)).phase == "running"
    await compute.cancel(job)
    await see(compute, job, "ended")


def test_doctor_looks_at_the_login_node_and_through_it_at_a_node(
    ssh_hosts: Hosts, login_node: str, make_lab: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    root = make_lab("far-lab", {'backend = "local"': f'backend = "slurm"\nlogin = "{login_node}"'})
    with (root / "lab.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n[compute.slurm]\npython = '{sys.executable}'\nfolder = '{tmp_path}/shared'\n")
    findings = examine(root)
    assert not {"trainer", "data"} & {finding.name for finding in findings}
    line, nodes, node = (finding for finding in findings if finding.name == "slurm")
    assert (line.text, line.bad) == (f"other has this program for {sys.executable}", False)
    assert nodes.text == "the nodes of the cluster are idle" and "sees the folder of runs" in node.text, (nodes, node)
    assert not list((tmp_path / "shared").glob("lab-*/runs/*"))
    compute = open_compute(settings.load(root), root / ".autoresearch", tmp_path / "log")
    assert isinstance(compute, SlurmCompute) and compute._queue.every_s == FAR.queue_s == 15.0 and FAR.settle_s >= FAR.queue_s


def test_a_login_node_that_is_no_host_is_refused() -> None:
    for name in ("-oProxyCommand=touch /tmp/x", "a b", "other:0", "$(id)"):
        with pytest.raises(ValidationError):
            settings.Settings.model_validate({"lab": {"name": "a lab"}, "compute": {"backend": "slurm", "login": name}})
