"""A long queue costs the runner no more than a short one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.models import Experiment
from autoresearch_mcp.server.runner.lock import runner_lock
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
