"""Hosts that are not as they should be, behind a real sshd: full, without torch, by another clock, shared, noisy, of two kinds."""

import ast
import re
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.line import given_there, install_there
from autoresearch_mcp.server.compute.line import there as common
from autoresearch_mcp.server.compute.line.setup import look
from autoresearch_mcp.server.compute.line.transport import HostAway, Ssh
from autoresearch_mcp.server.compute.slurm import there as of_slurm
from autoresearch_mcp.server.compute.ssh import there
from autoresearch_mcp.server.compute.ssh.backend import SshCompute
from autoresearch_mcp.server.compute.ssh.host import Wanted
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.trainer import protocol
from tests.server.compute.jobs import ENDS, see, submitted
from tests.standins.sshd import Hosts

pytestmark = pytest.mark.anyio
DRAWING = Path(__file__).parents[3] / "bench" / "drawing_launcher.py"
CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Open = Callable[..., SshCompute]


@pytest.fixture
async def opened(ssh_hosts: Hosts, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens backends of a lab. Runs draw their result in `seconds`, after lines that each host runs `before`."""
    made: list[SshCompute] = []

    def open(
        lab: str = "state",
        seconds: float = 0,
        python: str = sys.executable,
        allowed: str = "",
        gpus: tuple[str, ...] = (),
        **before: list[str],
    ) -> SshCompute:
        draw = f'nice() {{ {shlex.join([sys.executable, str(DRAWING), str(seconds), "0.5"])} "$6"; }}'
        hosts = before or {"box": []}
        sections = {name: HostSection(python=python, before=[*lines, draw], allowed=allowed) for name, lines in hosts.items()}
        made.append(SshCompute(Wanted("tiny", None), 1, tmp_path / lab, gpus or [*hosts], sections, ssh_hosts.ssh, round_s=0.1))
        return made[-1]

    yield open
    for compute in made:
        await compute.close()


@pytest.fixture
def patched(tmp_path: Path) -> Callable[[str], str]:
    """Makes a Python whose first lines are these, where a request begins."""

    def make(lines: str) -> str:
        program = tmp_path / f"python-{abs(hash(lines))}"
        program.write_text(f"""#!/bin/sh\nshift\nexec '{sys.executable}' -c "{lines}\n$1"\n""", encoding="utf-8")
        program.chmod(0o755)
        return str(program)

    return make


async def test_a_full_disk_or_quota_there_refuses_the_run_in_words(opened: Open, patched: Callable[[str], str], tmp_path: Path) -> None:
    for number, words in ((28, "No space left on device"), (122, "Disk quota exceeded")):
        full = f"import os, pathlib\ndef full(*_): raise OSError({number}, os.strerror({number}))\npathlib.Path.write_bytes = full"
        compute = opened(python=patched(full))
        end = await see(compute, await submitted(compute, tmp_path), *ENDS)
        why = f"It could not be started on box: the run's files could not be written there: [Errno {number}] {words}. Is the disk full?"
        assert (end.phase, end.reason) == ("refused", why)


async def test_a_host_without_torch_is_not_used_and_what_mends_it_is_said(
    opened: Open, patched: Callable[[str], str], ssh_hosts: Hosts
) -> None:
    without = patched("import sys\nsys.modules['torch'] = None")
    with pytest.raises(ComputeError, match=r"box can't be used: \S+ lacks torch\. Run `autoresearch-mcp setup ssh box`"):
        await opened(python=without).prepare()
    ((text, hint),) = await look("box", without, ssh_hosts.ssh)
    assert text.endswith(", which lacks torch") and "setup ssh box" in hint


async def test_an_interpreter_of_trainings_that_is_not_there_is_said(ssh_hosts: Hosts, tmp_path: Path) -> None:
    ((text, hint),) = await look("box", sys.executable, ssh_hosts.ssh, ["numpy"], training="/no/such/python")
    assert "but there [training] python, /no/such/python, can't be run: No such file or directory" in text and "[training] python" in hint
    for fits in (sys.executable, str(Path(sys.prefix))):
        ((text, hint),) = await look("box", sys.executable, ssh_hosts.ssh, ["numpy"], training=fits)
        assert not hint or "unsandboxed" in hint, text


async def test_a_clock_ten_minutes_off_changes_no_second_of_a_run_and_hours_are_the_hosts(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, real = datetime.now(), time.time
    hours = f"{now - timedelta(minutes=5):%H:%M}-{now + timedelta(minutes=5):%H:%M}"
    for ahead_s in (600.0, -600.0):
        monkeypatch.setattr(time, "time", lambda ahead_s=ahead_s: real() + ahead_s)  # of the lab; the host is another process
        compute = opened(lab=f"lab{ahead_s:.0f}", seconds=0.5, allowed=hours)
        end = await see(compute, await submitted(compute, tmp_path), *ENDS)
        assert end.result is not None and end.device_s is not None and 0.4 <= end.device_s < 60, end
        monkeypatch.undo()


async def test_two_labs_of_two_people_on_one_box_and_one_user_leave_each_other_alone(opened: Open, tmp_path: Path) -> None:
    hers, his = opened(lab="hers", seconds=600), opened(lab="his", seconds=600)
    run, other = await submitted(hers, tmp_path), await submitted(his, tmp_path)
    await see(hers, run, "running")
    await see(his, other, "running")
    assert await his.orphans(lambda: {(other.id, 1)}) == [] and await hers.orphans(lambda: {(run.id, 1)}) == []
    assert await opened(lab="his").orphans(set) == [f"run {other.id}/1 on box"]
    end = await see(his, other, "ended", "lost")
    assert end.phase == "lost" or end.result is not None  # lost, where it had ended before the same request removed it
    assert await hers.adopt(run) and (await hers.observe(run)).phase == "running"
    await hers.cancel(run)
    await see(hers, run, "ended")


async def test_escape_sequences_of_a_host_reach_nobody(opened: Open, tmp_path: Path) -> None:
    compute = opened(box=[r"printf '\033[31mred \033]0;a title\007\n'", "exit 3"])
    end = await see(compute, await submitted(compute, tmp_path), *ENDS)
    assert end.phase == "refused" and "red" in end.reason and not CONTROL.search(end.reason)
    ssh = tmp_path / "noisy"
    ssh.write_text(
        "#!/bin/sh\ncat > /dev/null\nprintf '\\033[2Jwiped\\007 \\033]8;;http://x\\007 away\\r\\n' >&2\nexit 255\n", encoding="utf-8"
    )
    ssh.chmod(0o755)
    with pytest.raises(HostAway, match=r"wiped.*away") as told:
        await Ssh("box", sys.executable, str(ssh)).ask({"check": []})
    assert not CONTROL.search(str(told.value))


async def test_results_of_two_models_of_gpu_are_under_other_conditions_and_of_one_model_under_the_same(
    opened: Open, tmp_path: Path
) -> None:
    kinds = {name: [f"export DRAWN_DEVICE='NVIDIA {kind}'"] for name, kind in (("box", "A100"), ("other", "H100"))}
    compute = opened(seconds=0.3, gpus=("box:0,1", "other:0"), **kinds)
    conditions: dict[str, set[str]] = {}
    with anyio.fail_after(120):
        while len(conditions) < 2:  # the first of them may go to the host that was prepared first
            for job in [await submitted(compute, tmp_path, "cuda") for _ in range(3)]:
                result = (await see(compute, job, *ENDS)).result
                assert result is not None
                spec = protocol.read_json(job.directory / protocol.SPEC) or {}
                conditions.setdefault(result.device_name, set()).add(protocol.conditions(result, spec))
    a100, h100 = conditions["NVIDIA A100"], conditions["NVIDIA H100"]
    assert len(a100) == len(h100) == 1 and a100 != h100


@pytest.mark.parametrize("module", [common, given_there, there, of_slurm, install_there])
def test_what_is_sent_to_a_python_of_before_is_read_by_it_so_that_it_can_say_which_it_is(module: object) -> None:
    ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"), feature_version=(3, 8))  # type: ignore[attr-defined]
