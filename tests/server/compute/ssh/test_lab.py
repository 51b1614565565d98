"""A lab on two hosts behind a real sshd: a campaign over MCP, a line that is cut, a host that was restarted."""

import os
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.line.there import make_folder
from autoresearch_mcp.server.compute.ssh import host as host_module
from autoresearch_mcp.server.compute.ssh import there as far
from autoresearch_mcp.server.compute.ssh.backend import SshCompute
from autoresearch_mcp.server.compute.ssh.host import Wanted
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.trainer import prepare, protocol
from tests.acceptance.serving import promote_a_gain
from tests.server.compute.jobs import ENDS, see, submitted
from tests.standins.sshd import Hosts

pytestmark = pytest.mark.anyio
DRAWING = Path(__file__).parents[3] / "bench" / "drawing_launcher.py"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def drawing(seconds: float) -> str:
    """A line of `before` that puts another launcher in the place of `nice -n 0 PYTHON -m autoresearch_mcp.trainer.launch DIRECTORY`."""
    return f'nice() {{ {shlex.join([sys.executable, str(DRAWING), str(seconds), "0.5"])} "$6"; }}'


@pytest.fixture
async def line(ssh_hosts: Hosts, tmp_path: Path) -> AsyncIterator[tuple[SshCompute, Path]]:
    """A backend on `box` with runs of ten minutes, and the file that cuts its line."""
    cut, ssh = tmp_path / "cut", tmp_path / "ssh"
    ssh.write_text(
        f'#!/bin/sh\n[ -e "{cut}" ] && {{ echo "Connection reset by peer" >&2; exit 255; }}\nexec {ssh_hosts.ssh} "$@"\n', "utf-8"
    )
    ssh.chmod(0o755)
    section = HostSection(python=sys.executable, before=[drawing(600)])
    compute = SshCompute(Wanted("tiny", None), 1, tmp_path / "state", ["box"], {"box": section}, str(ssh), round_s=0.1)
    yield compute, cut
    await compute.close()


async def start(compute: SshCompute, tmp_path: Path) -> Job:
    job = await submitted(compute, tmp_path)
    await see(compute, job, "running")
    return job


def there(hosts: Hosts, job: Job) -> Path:
    (folder,) = hosts.folder.glob(f"home of */.autoresearch-mcp/labs/lab-*/runs/{job.id}/{job.attempt}")
    return folder


async def test_a_campaign_on_two_hosts_promotes_a_gain_over_mcp(
    ssh_hosts: Hosts, make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    root = make_lab("far-lab", {'backend = "local"': 'backend = "ssh"\nhosts = ["box:0", "other:0"]'})
    with (root / "lab.toml").open("a", encoding="utf-8") as file:
        for name in ("box", "other"):
            file.write(f"\n[compute.ssh.{name}]\npython = '{sys.executable}'\nbefore = ['{drawing(0.2)}']\n")
    await promote_a_gain(root)
    hosts = {str((protocol.read_json(record) or {})["host"]) for record in (root / ".autoresearch" / "runs").glob("*/*/ssh.json")}
    assert hosts == {"box", "other"}


async def test_a_cancel_holds_while_the_host_is_away_and_its_run_is_neither_lost_nor_repeated(
    line: tuple[SshCompute, Path], ssh_hosts: Hosts, tmp_path: Path
) -> None:
    compute, cut = line
    job = await start(compute, tmp_path)
    cut.touch()
    with anyio.fail_after(30):
        while not compute.troubles():
            assert (await compute.observe(job)).phase == "running"
            await anyio.sleep(compute.poll_s)
    assert compute.troubles() == ["box is away: Connection reset by peer. What became of its 1 run is known when it is back."]
    await compute.cancel(job)
    assert (await compute.observe(job)).phase == "running"
    cut.unlink()
    end = await see(compute, job, *ENDS)
    assert end.result is not None and end.result.state == "cancelled" and end.device_s is not None
    with anyio.fail_after(30):  # only the mark that it must not begin again is left there
        while [entry.name for entry in there(ssh_hosts, job).iterdir()] != [protocol.ABANDONED]:  # noqa: ASYNC110
            await anyio.sleep(compute.poll_s)
    assert not compute.troubles()


async def test_a_log_of_many_answers_comes_back_whole_and_data_that_differs_is_refused(
    line: tuple[SshCompute, Path], ssh_hosts: Hosts, tmp_path: Path
) -> None:
    compute, _ = line
    job, text = await start(compute, tmp_path), b"0123456789abcdef" * 100_000
    (there(ssh_hosts, job) / protocol.LOG).write_bytes(text)
    await compute.cancel(job)
    assert (await see(compute, job, "ended", "lost")).result is not None
    assert (job.directory / protocol.LOG).read_bytes() == text
    record = protocol.read_json(tmp_path / "state" / "ssh.json") or {}
    record["data"]["tiny"]["tokenizer"] = "another"
    protocol.write_json(tmp_path / "state" / "ssh.json", record)
    section = {"box": HostSection(python=sys.executable)}
    next_one = SshCompute(Wanted("tiny", None), 1, tmp_path / "state", ["box"], section, ssh_hosts.ssh)
    with pytest.raises(ComputeError, match="box can't be used: its tokenizer differs from the lab's"):
        await next_one.prepare()
    await next_one.close()


async def test_a_gpu_that_somebody_else_uses_is_left_alone_until_it_is_free(ssh_hosts: Hosts, tmp_path: Path) -> None:
    home = ssh_hosts.home("box")
    tool = home / "tools" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$1" = --id=3 ] && echo "GPU-of-the-test, $(cat "$HOME/used")"\n', encoding="utf-8")
    tool.chmod(0o755)
    (home / "used").write_text("30000, [N/A]\n", encoding="utf-8")
    section = {
        "box": HostSection(
            python=sys.executable, before=['cat "$HOME"/.autoresearch-mcp/labs/*/runs/*/1/spec.json > "$HOME/specs"', drawing(0)]
        )
    }
    compute = SshCompute(Wanted("tiny", None), 1, tmp_path / "state", ["box:3"], section, ssh_hosts.ssh, round_s=0.1)
    job = await submitted(compute, tmp_path)
    with anyio.fail_after(30):
        while not compute.troubles():
            assert (await compute.observe(job)).phase == "starting"
            await anyio.sleep(compute.poll_s)
    assert compute.troubles() == ["box: somebody else uses GPU 3. Trainings wait for it."]
    assert await compute.adopt(job)  # the runner asks after some minutes, and the run goes on waiting
    assert (await compute.observe(job)).phase == "starting"
    (home / "used").write_text("12, 0\n", encoding="utf-8")
    end = await see(compute, job, *ENDS)
    assert end.result is not None and not compute.troubles()
    assert '"visible": "GPU-of-the-test"' in (home / "specs").read_text(encoding="utf-8")  # its number means another one to CUDA
    await compute.close()
    tool.unlink()


async def test_a_line_of_before_that_ends_the_shell_is_told_with_its_last_words(ssh_hosts: Hosts, tmp_path: Path) -> None:
    section = {"box": HostSection(python=sys.executable, before=["echo there is no module cuda", "exit 3"])}
    compute = SshCompute(Wanted("tiny", None), 1, tmp_path / "state", ["box"], section, ssh_hosts.ssh, round_s=0.1)
    job = await submitted(compute, tmp_path)
    end = await see(compute, job, *ENDS)
    assert (end.phase, end.reason) == ("refused", "The launcher ended on box before it began: there is no module cuda")
    await compute.close()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # it is to outlive what began it
def test_a_run_that_ends_at_once_is_told_of_in_the_answer_to_its_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(far, "_SHORT_S", 30.0)  # however busy this machine is
    spec = asdict(protocol.Spec("e-1", 1, "tiny", 20.0, 1, ""))
    launch = {
        "run": "e-1/1",
        "spec": spec,
        "files": {"train.py": ""},
        "hashes": {},
        "before": [drawing(0)],
        "nice": 0,
        "leave": [0, 0],
        "given": {},
    }
    asked = {"launch": [launch], "adopt": [], "cancel": [], "look": {"e-1/1": {"log": 0, "curve": 0}}, "remove": [], "list": False}
    told = far.answer({"lab": "l", "folder": str(tmp_path), "fixed": prepare.fixed_hash(), **asked})
    assert told["launched"] == {"e-1/1": ""} and told["looks"]["e-1/1"]["result"]["state"] == "finished", told


def test_of_two_requests_at_once_one_makes_the_run_and_no_half_of_another_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "e-1" / "1"
    spec, files, write = {"seed": 1}, {"code/train.py": "", "code/deep/data.py": ""}, protocol.write_json

    def be_second(path: Path, value: object) -> None:
        monkeypatch.undo()
        monkeypatch.setattr("os.getpid", lambda: 1)
        make_folder(folder, files, {protocol.SPEC: spec})
        write(path, value)

    monkeypatch.setattr(protocol, "write_json", be_second)
    make_folder(folder, files, {protocol.SPEC: spec})
    assert protocol.read_json(folder / protocol.SPEC) == spec
    other = tmp_path / "e-2" / "1"
    with pytest.raises(OSError):
        make_folder(other, {"train.py": "", "train.py/data.py": ""}, {})
    assert [*folder.parent.iterdir()] == [folder] and not [*other.parent.iterdir()]


async def test_a_training_begins_in_the_hours_of_its_host_and_says_for_which_it_waits(
    ssh_hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = datetime.now() + timedelta(hours=2)  # by the clock of the host, which is this machine
    hours = f"{opens:%H:%M}-{opens + timedelta(hours=2):%H:%M}"
    section = HostSection(python=sys.executable, before=[drawing(0)], allowed=hours)
    compute = SshCompute(Wanted("tiny", None), 1, tmp_path / "state", ["box"], {"box": section}, ssh_hosts.ssh, round_s=0.1)
    job = await submitted(compute, tmp_path)
    assert (await compute.observe(job)).phase == "starting" and not (job.directory / "ssh.json").exists()
    assert compute.troubles() == [f"box takes trainings at {hours} by its clock. Those that wait for it begin then."]
    monkeypatch.setattr(host_module, "time", SimpleNamespace(time=lambda: time.time() + 3 * 3600))
    assert (await see(compute, job, *ENDS)).result is not None
    assert not compute.troubles()
    await compute.close()


async def test_a_host_that_was_restarted_loses_its_run_and_says_so(line: tuple[SshCompute, Path], ssh_hosts: Hosts, tmp_path: Path) -> None:
    compute, _ = line
    job = await start(compute, tmp_path)
    protocol.write_json(there(ssh_hosts, job) / "host.json", {"boot": "an earlier one"})
    os.kill(int((there(ssh_hosts, job) / protocol.LOCK).read_text(encoding="ascii")), signal.SIGKILL)
    end = await see(compute, job, *ENDS)
    assert (end.phase, end.reason, end.never_started) == ("lost", "box was restarted in the run.", False)
    assert not await compute.adopt(replace(job, files={}))


async def test_a_run_that_nobody_needs_is_ended_and_its_files_are_removed(
    line: tuple[SshCompute, Path], ssh_hosts: Hosts, tmp_path: Path
) -> None:
    compute, _ = line
    job = await start(compute, tmp_path)
    next_one = SshCompute(Wanted("tiny", None), 1, tmp_path / "state", ["box"], {"box": HostSection(python=sys.executable)}, ssh_hosts.ssh)
    assert await next_one.orphans(lambda: {(job.id, 1)}) == []
    assert (await compute.observe(job)).phase == "running"
    assert await next_one.orphans(set) == [f"run {job.id}/1 on box"]
    await see(compute, job, "ended", "lost")
    await next_one.close()
