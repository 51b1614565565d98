"""Old run directories are removed, but never what the lab still needs."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.models import Promotion, new_id
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.log import LOG_BYTES, rotate
from autoresearch_mcp.server.runner.retention import Retention
from autoresearch_mcp.server.settings import LabSection
from tests.server.harness import LabHarness

DAY_S = 86_400.0


@pytest.fixture
def harness(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    """A lab whose experiments end by the test's word."""
    harness = LabHarness(make_lab("old", {"device_hours = 8.0": "device_hours = 1000.0"}))
    with runner_lock(harness.state) as lock:
        assert lock is not None
        yield harness
    harness.close()


def propose(harness: LabHarness, line: str) -> str:
    text = (harness.root / "train.py").read_text(encoding="utf-8")
    return harness.lab.propose_patch(f"Try {line}.", "ada", files={"train.py": f"{text}\n{line}\n"}).commit


def end(harness: LabHarness, commit: str, days_ago: float, size: int = 1000, flushed: bool = True) -> str:
    """Let an experiment of this commit have ended, and leave a run directory."""
    (id,) = harness.lab.launch_training(commit, "ada").experiments
    finished_at = time.time() - days_ago * DAY_S
    harness.ledger.move(id, ["queued"], state="starting", attempt=1, started_at=finished_at - 1)
    run = LabPaths(harness.root).run(id, 1)
    run.mkdir(parents=True)
    (run / "train.log").write_bytes(b"x" * size)
    ended = harness.ledger.move(id, ["starting"], state="finished", finished_at=finished_at, val_bpb=1.5)
    assert ended is not None
    if flushed:
        harness.ledger.settle("experiments", {id: ended.version})
    return id


def sweep(harness: LabHarness, **keep: float) -> set[str]:
    """Remove old runs; the experiments that have a directory left."""

    async def sweep() -> None:
        retention = Retention(LabSection(name="old", **keep), harness.state, harness.ledger, Repo(harness.root))  # type: ignore[arg-type]
        retention.start_if_due(quiet=True)
        await retention.wait()

    anyio.run(sweep)
    return {path.name for path in LabPaths(harness.root).runs.iterdir()}


def test_runs_older_than_the_days_to_keep_are_removed_and_others_stay(harness: LabHarness) -> None:
    commit = propose(harness, "A = 1")
    old, young = end(harness, commit, 3.1), end(harness, commit, 2.9)
    assert sweep(harness) == {old, young}, "they are kept for months unless lab.toml says otherwise"
    assert sweep(harness, keep_runs_days=3) == {young}
    assert harness.ledger.ended([old])[old]["val_bpb"] == 1.5


def test_above_the_cap_the_oldest_runs_are_removed_first(harness: LabHarness) -> None:
    commit = propose(harness, "A = 1")
    third, second, first = (end(harness, commit, days, size=100_000) for days in (1, 2, 3))
    assert sweep(harness, keep_runs_mb=0.3) == {first, second, third}
    assert sweep(harness, keep_runs_mb=0.29) == {second, third}
    assert sweep(harness, keep_runs_mb=0.1) == {third}


def test_runs_that_the_lab_still_needs_are_never_removed(harness: LabHarness) -> None:
    champion = harness.lab.status().champion.commit
    promoted, other = propose(harness, "A = 1"), propose(harness, "B = 2")
    promotion = Promotion(
        id=new_id("p"), commit=promoted, previous=champion, author="ada", approved_by="policy", verdict={}, created_at=time.time()
    )
    harness.ledger.intend_promotion(promotion)
    harness.ledger.confirm_promotion(promotion)
    needed = {end(harness, commit, 300) for commit in (champion, champion, promoted, promoted)}
    needed.add(end(harness, other, 300, flushed=False))
    (queued,) = harness.lab.launch_training(other, "ada").experiments
    unknown = "e-000000000000000"
    for id in (queued, unknown):
        LabPaths(harness.root).run(id, 1).mkdir(parents=True)
    gone = end(harness, other, 300)
    assert sweep(harness, keep_runs_days=0.001, keep_runs_mb=0.0001) == {*needed, queued, unknown}
    assert gone not in needed


def test_a_runner_removes_old_runs_when_nothing_is_left_to_do_and_the_end_of_their_log_stays(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("kept", {"schema = 1": "keep_runs_mb = 0.0001\nschema = 1"}))
    with runner_lock(harness.state):
        (id,) = harness.lab.launch_training(propose(harness, "A = 1"), "ada").experiments
    harness.drive()
    harness.drive()  # now that it is in the lake
    assert not LabPaths(harness.root).run(id, 1).exists() and harness.ended([id])
    with runner_lock(harness.state):
        assert "not on this machine" in harness.lab.read_log(id)
    harness.close()


def test_a_long_log_is_moved_aside_while_others_write_to_it(tmp_path: Path) -> None:
    log = tmp_path / "runner.log"
    with log.open("ab") as writer:
        writer.write(b"old\n" * (LOG_BYTES // 4))
        writer.flush()
        rotate(log)
        assert log.stat().st_size == LOG_BYTES, "it is not too long yet"
        writer.write(b"old\n")
        writer.flush()
        rotate(log)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n" and (tmp_path / "runner.log.1").stat().st_size == LOG_BYTES + 4
    os.truncate(log, LOG_BYTES + 1)
    rotate(log)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runner.log", "runner.log.1"]
