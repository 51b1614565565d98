"""A long queue costs the runner no more than a short one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.compute.base import Job, Observation
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.runner import loop
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.queue import QueueView
from tests.server import harness as harness_module
from tests.server.harness import LabHarness


def test_the_runner_reads_as_much_for_an_experiment_however_many_are_queued(
    make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = LabHarness(make_lab("long-queue", {"slots = 0": "slots = 1", "device_hours = 8.0": "device_hours = 1000.0"}))
    with runner_lock(harness.state):
        ids = [id for _ in range(4) for id in harness.launch(16)]
    reads, open_experiments = 0, harness.ledger.open_experiments

    def counted(*states: object, **limits: object) -> list[Experiment]:
        nonlocal reads
        answer = open_experiments(*states, **limits)  # type: ignore[arg-type]
        reads += len(answer)
        return answer

    monkeypatch.setattr(harness.ledger, "open_experiments", counted)
    harness.drive()
    assert harness.ended(ids)
    assert reads < 20 * len(ids), "records read do not grow with the queue behind an experiment"
    harness.close()


def test_more_runs_than_a_round_looks_at_are_looked_at_in_turn_and_all_end(
    make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "AT_ONCE", 2)
    monkeypatch.setattr(loop, "LOOK_S", 1e9)
    harness = LabHarness(make_lab("many-slots", {"slots = 0": "slots = 8", "device_hours = 8.0": "device_hours = 1000.0"}))
    looked_at = list[str]()

    class Noted(LocalCompute):
        async def observe(self, job: Job) -> Observation:
            looked_at.append(job.id)
            return await super().observe(job)

    monkeypatch.setattr(harness_module, "LocalCompute", Noted)
    with runner_lock(harness.state):
        ids = harness.launch(16)
    harness.drive()
    assert harness.ended(ids) and set(looked_at) == set(ids)
    harness.close()


def test_active_experiments_come_in_turn_and_none_is_left_out(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("turns"))
    with runner_lock(harness.state):
        ids = harness.launch(5)
        for id in ids:
            assert harness.ledger.start(id, 1e9)
        view = QueueView(harness.ledger)
        turns = [[e.id for e in view.next_active(2)] for _ in range(5)]
        assert all(len(turn) == 2 for turn in turns) and [id for turn in turns for id in turn] == [*ids, *ids]
        assert [e.id for e in view.next_active(5)] == ids
    harness.close()
