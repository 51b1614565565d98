"""The data's preparation: a state of its own, which holds up nothing, costs no experiment anything, and can be ended."""

import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner
from autoresearch_mcp.trainer import files, prepare, protocol
from tests.server.harness import NOOP, LabHarness

# In the place of a launcher that an earlier runner left behind: it runs until it is told to end.
LAUNCHER = """
import fcntl, os, pathlib, signal, sys
from autoresearch_mcp.trainer import protocol

run = pathlib.Path(sys.argv[1])
lock = (run / protocol.LOCK).open("w")
fcntl.lockf(lock, fcntl.LOCK_EX)

def end(*_):
    hashes = dict.fromkeys(("fixed", "data", "tokenizer", "code"), "")
    protocol.write_json(run / protocol.RESULT, protocol.Result("cancelled", hashes=hashes, versions={"torch": ""}))
    sys.exit()

signal.signal(signal.SIGTERM, end)
protocol.write_json(run / protocol.PROGRESS, protocol.Progress("running"))
lock.write(str(os.getpid()))
lock.flush()
while True:
    signal.pause()
"""

pytestmark = pytest.mark.anyio


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for prepared data."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(folder))
    return folder


@pytest.fixture
def harness(cache: Path, make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    """A lab whose runner is this test: calls start no other."""
    harness = LabHarness(make_lab())
    with runner_lock(harness.state) as mine:
        assert mine
        yield harness
    harness.close()


@contextlib.contextmanager
def held_up(cache: Path) -> Iterator[None]:
    """Let no preparation get on: each waits for another that seems to be at it."""
    target = prepare.data_dir("tiny")
    with files.locked(target.parent / f".{target.name}.lock"):
        yield


@contextlib.contextmanager
def launcher(run: Path) -> Iterator[None]:
    """Let a run of an earlier runner go on."""
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, str(run)]) as process:
        try:
            yield
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def driven(harness: LabHarness) -> AsyncIterator[Runner]:
    """Run the loop beside the test, and ask it to leave in the end."""
    lake = EmbeddedLake(harness.state / "lake")
    compute = LocalCompute("tiny", 1, harness.state / "runner.log", command=NOOP)
    runner = Runner(lab_settings.load(harness.root), harness.state, harness.ledger, Repo(harness.root), lake, compute)
    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run)
            yield runner
            runner.stopping.set()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110
        await anyio.sleep(0.02)


def preparations(cache: Path) -> list[int]:
    """The processes that prepare data for this place."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                b"autoresearch_mcp.trainer.prepare" in (process / "cmdline").read_bytes()
                and str(cache).encode() in (process / "environ").read_bytes()
            ):
                pids.append(int(process.name))
    return pids


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
async def test_while_data_is_prepared_the_runner_flushes_answers_and_leaves_when_told(harness: LabHarness, cache: Path) -> None:
    (id,) = harness.launch()
    with held_up(cache):
        async with driven(harness) as runner:
            await until(lambda: preparations(cache))
            harness.lab.write_memory("finding", "Data takes long.", "ada")
            await until(lambda: not harness.ledger.unflushed())
            status = harness.lab.status()
            assert "preparing data" in status.next[0] and not any("preparing" in warning for warning in status.warnings)
            assert harness.record(id).state == "queued" and harness.record(id).started_at is None
            runner.stopping.set()
        assert preparations(cache) == [], "nothing goes on preparing for a runner that left"
    assert harness.state_of(id) == "queued"


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
async def test_what_runs_is_followed_and_cancelled_while_data_is_prepared(make_lab: Callable[..., Path], cache: Path) -> None:
    harness = LabHarness(make_lab("two", {"slots = 0": "slots = 2"}))
    with runner_lock(harness.state):
        running, waiting = harness.launch(2)
        harness.ledger.move(running, ["queued"], state="starting", attempt=1, started_at=time.time())
        run = LabPaths(harness.root).run(running, 1)
        run.mkdir(parents=True)
        protocol.write_json(run / protocol.SPEC, protocol.Spec(running, 1, "tiny", 1.0, 1, ""))
        with launcher(run), held_up(cache):
            await until(lambda: (run / protocol.LOCK).exists() and (run / protocol.LOCK).stat().st_size)
            async with driven(harness):
                await until(lambda: preparations(cache) and harness.record(running).state == "running")
                harness.lab.cancel("ada", [running])
                await until(lambda: harness.ended([running]))
                assert preparations(cache) and harness.record(waiting).state == "queued"
        assert harness.state_of(running) == "cancelled"
    harness.close()


async def test_a_preparation_costs_the_experiments_that_wait_for_it_nothing(harness: LabHarness, cache: Path) -> None:
    (id,) = harness.launch()
    async with driven(harness):
        with held_up(cache):
            await until(lambda: harness.lab.status().next[0].startswith("The runner is preparing data"))
            before = harness.lab.status().budget
            ready = time.time()
        await until(lambda: harness.ended([id]))
    answer = harness.lab.get_experiment(id)
    assert answer.experiment.state == "finished" and answer.attempt == 1
    assert answer.started_at is not None and answer.started_at > ready and answer.finished_at is not None
    assert answer.cost_s <= answer.finished_at - answer.started_at + 0.1
    assert before.spent_s == 0 and "preparing" not in " ".join(harness.lab.status().next)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
async def test_cancelling_all_that_waits_ends_the_preparation(harness: LabHarness, cache: Path) -> None:
    ids = harness.launch(2)
    with held_up(cache):
        async with driven(harness):
            await until(lambda: preparations(cache))
            for id in ids:
                harness.lab.cancel("ada", [id])
            await until(lambda: not preparations(cache))
            assert [harness.state_of(id) for id in ids] == ["cancelled", "cancelled"]
            (again,) = harness.launch()
            await until(lambda: preparations(cache))
            assert harness.state_of(again) == "queued"


async def test_a_preparation_that_fails_gives_all_that_wait_its_reason_once(harness: LabHarness, cache: Path) -> None:
    target = prepare.data_dir("tiny")
    target.mkdir()  # with no data in it
    ids = harness.launch(3)
    async with driven(harness):
        await until(lambda: harness.ended(ids))
        for id in ids:
            answer = harness.lab.get_experiment(id)
            assert answer.experiment.state == "crashed" and answer.failure is not None and answer.cost_s == 0 and answer.started_at is None
            assert "could not be prepared" in answer.failure.message and "is not a data directory" in answer.failure.message
        assert (harness.state / "runner.log").read_text(encoding="utf-8").count("is not a data directory") == 1
        target.rmdir()
        (again,) = harness.launch()
        await until(lambda: harness.ended([again]))
    assert harness.state_of(again) == "finished"


async def test_a_preparation_with_a_fault_of_its_own_is_a_failure_too(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: LocalCompute) -> str:
        raise IndexError("list index out of range")

    monkeypatch.setattr(LocalCompute, "prepare", fails)
    (id,) = harness.launch()
    async with driven(harness):
        await until(lambda: harness.ended([id]))
    failure = harness.lab.get_experiment(id).failure
    assert failure is not None and "could not be prepared: IndexError" in failure.message
