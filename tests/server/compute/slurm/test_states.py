"""What Slurm says of a job, in the lab's states and words; on a real Slurm where the case can be made there."""

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.slurm.backend import Pace, SlurmCompute
from autoresearch_mcp.server.compute.slurm.client import QueueLine, Slurm
from autoresearch_mcp.server.compute.slurm.folder import RECORD
from autoresearch_mcp.server.compute.slurm.script import CLAIM
from autoresearch_mcp.server.compute.slurm.states import ending
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.settings import SlurmSection
from autoresearch_mcp.trainer import protocol

pytestmark = pytest.mark.anyio

MakeCompute = Callable[..., SlurmCompute]


@pytest.fixture
async def make_compute(slurm_cluster: Path, tmp_path: Path) -> AsyncIterator[MakeCompute]:
    """Makes the backend of one lab. Its jobs run a shell script in the launcher's place."""
    made: list[SlurmCompute] = []
    python = tmp_path / "python"

    def make(does: str = "exec sleep 60", **section: object) -> SlurmCompute:
        python.write_text(f'#!/bin/sh\ncd "$3"\n{does}\n', encoding="utf-8")
        python.chmod(0o755)
        keys = SlurmSection.model_validate({"python": str(python), **section})
        made.append(SlurmCompute("tiny", 1, tmp_path / "state", tmp_path / "log", keys, pace=Pace(0.2, 0.5)))
        return made[-1]

    yield make
    for compute in made:
        await compute.orphans(lambda: [])
        await compute.close()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    id = new_id("e")
    return Job(id, 1, tmp_path / "runs" / id / "1", protocol.Spec(id, 1, "tiny", 20.0, 1, ""), {"train.py": b""})


async def see(compute: SlurmCompute, job: Job, when: Callable[[Observation], Awaitable[bool] | bool]) -> Observation:
    with anyio.fail_after(40):
        while True:
            now = await compute.observe(job)
            if when(now):
                return now
            await anyio.sleep(0.1)


async def over(compute: SlurmCompute, job: Job) -> Observation:
    return await see(compute, job, lambda now: now.phase in ("ended", "lost", "refused"))


async def begins(compute: SlurmCompute, job: Job) -> str:
    """Wait until a job's script has begun. Returns its number."""
    await see(compute, job, lambda _: (job.directory / CLAIM).exists() and "id" in (protocol.read_json(job.directory / RECORD) or {}))
    return str((protocol.read_json(job.directory / RECORD) or {})["id"])


def slurm(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"partition": "nowhere"}, "nvalid partition"),
        ({"gres": "gpu:h100:1"}, "gres"),
        ({"options": ["--no-such-option"]}, "no-such-option"),
    ],
)
async def test_what_slurm_never_takes_is_refused_in_its_words(
    make_compute: MakeCompute, job: Job, section: dict[str, object], words: str
) -> None:
    compute = make_compute(**section)
    await compute.submit(job)
    end = await over(compute, job)
    assert end.phase == "refused" and words in end.reason and "lab.toml" in end.reason


async def test_a_job_that_somebody_cancels_says_so_whether_it_runs_or_waits(make_compute: MakeCompute, job: Job, tmp_path: Path) -> None:
    compute = make_compute('touch up; echo \'{"phase": "running"}\' > progress.json; exec sleep 60')
    await compute.submit(job)
    await begins(compute, job)
    slurm("scancel", str((protocol.read_json(job.directory / RECORD) or {})["id"]))
    end = await over(compute, job)
    assert end.result is not None and end.result.state == "cancelled" and end.result.fault == "cancel"
    assert "Somebody cancelled" in (end.result.failure or {})["message"]
    assert await compute.observe(job) == end

    waiting = make_compute(options=["--begin=now+1hour"])
    later = Job(new_id("e"), 1, tmp_path / "runs" / "later" / "1", job.spec, job.files)
    await waiting.submit(later)
    await see(waiting, later, lambda _: (later.directory / RECORD).exists())
    slurm("scancel", str((protocol.read_json(later.directory / RECORD) or {})["id"]))
    end = await over(waiting, later)
    assert end.result is not None and (end.result.state, end.device_s) == ("cancelled", 0.0)


async def test_a_job_over_its_time_limit_says_which_limit(make_compute: MakeCompute, job: Job) -> None:
    end = ending(QueueLine("1", "TIMEOUT", 61.0), begun=True, supervised=True, cancelled=False, output="")
    assert end.result is not None and end.result.state == "timed_out" and end.device_s == 61.0
    assert "time_limit_min" in (end.result.failure or {})["message"] and end.result.fault == "machine"
    compute = make_compute(time_limit_min=7)
    await compute.submit(job)
    await see(compute, job, lambda _: (job.directory / RECORD).exists())
    id = str((protocol.read_json(job.directory / RECORD) or {})["id"])
    shown = slurm("scontrol", "show", "job", id)
    assert "TimeLimit=00:07:00" in shown and f"Comment=autoresearch-mcp lab {id_of_lab(compute)} experiment {job.id} attempt 1" in shown


def id_of_lab(compute: SlurmCompute) -> str:
    return compute._lab


async def test_a_script_that_ends_before_the_training_is_refused_with_its_last_lines(make_compute: MakeCompute, job: Job) -> None:
    compute = make_compute(before=["echo module: no such thing", "exit 3"])
    await compute.submit(job)
    end = await over(compute, job)
    assert end.phase == "refused" and "module: no such thing" in end.reason


async def test_a_job_finds_its_own_lines_and_no_secret_of_the_servers(
    make_compute: MakeCompute, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPLAKE_API_KEY", "not for jobs")
    compute = make_compute("env > seen; exec sleep 60", before=["export FROM_LAB_TOML=yes"])
    await compute.submit(job)
    await begins(compute, job)
    seen = job.directory / "seen"
    await see(compute, job, lambda _: seen.exists() and "OMP_NUM_THREADS=1" in seen.read_text(encoding="utf-8"))
    text = seen.read_text(encoding="utf-8")
    assert "FROM_LAB_TOML=yes" in text and "not for jobs" not in text


async def test_a_held_job_waits_and_its_reason_is_told(make_compute: MakeCompute, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.compute.slurm.queue.LONG_S", 0.0)
    compute = make_compute(options=["--begin=now+1hour"])
    await compute.submit(job)
    waiting = await see(compute, job, lambda _: bool(compute.troubles()))
    assert (waiting.phase, waiting.device_s) == ("starting", 0.0)
    assert "1 training waits in Slurm" in compute.troubles()[0] and "BeginTime" in compute.troubles()[0]
    assert await compute.adopt(job), "a job that waits is no lost one"


async def test_while_slurm_is_away_nothing_is_lost_and_it_is_said(
    make_compute: MakeCompute, job: Job, tmp_path: Path, slurm_cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = tmp_path / "away"
    away.write_text("#!/bin/sh\necho 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2\nexit 1\n", encoding="utf-8")
    away.chmod(0o755)
    monkeypatch.setattr("autoresearch_mcp.server.compute.slurm.backend.SUBMIT_RETRY_S", (0.1, 0.1))
    compute = make_compute("exec sleep 60")
    compute._slurm = Slurm({name: str(away) for name in ("sbatch", "squeue", "scancel")})
    compute._queue._slurm = compute._slurm
    await compute.submit(job)
    waiting = await see(compute, job, lambda _: bool(compute.troubles()))
    assert waiting.phase == "starting" and "Unable to contact slurm controller" in compute.troubles()[0]
    assert await compute.adopt(job)
    compute._slurm = compute._queue._slurm = Slurm()
    await begins(compute, job)
    assert not compute.troubles()


@pytest.mark.parametrize(
    ("state", "begun", "phase", "words"),
    [
        ("NODE_FAIL", True, "lost", "the node failed"),
        ("PREEMPTED", True, "lost", "higher priority"),
        ("BOOT_FAIL", False, "lost", ""),
        ("OUT_OF_MEMORY", True, "ended", "memory"),
        ("FAILED", True, "lost", ""),
    ],
)
def test_each_end_of_slurm_becomes_the_right_state_and_words(state: str, begun: bool, phase: str, words: str) -> None:
    end = ending(QueueLine("1", state, 5.0), begun=begun, supervised=begun, cancelled=False, output="")
    said = end.reason if end.result is None else (end.result.failure or {})["message"]
    assert (end.phase, end.never_started) == (phase, not begun) and words in said
    assert end.device_s == (5.0 if begun else 0.0)


def test_a_job_that_could_not_write_where_its_run_lies_names_the_folder() -> None:
    end = ending(QueueLine("1", "FAILED"), begun=False, supervised=False, cancelled=False, output="")
    assert end.phase == "refused" and "Do the nodes see" in end.reason
