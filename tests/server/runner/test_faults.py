"""Faults of the runner's own: it goes on, says so, and lets one experiment's trouble harm no other."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.compute.base import ComputeError, Job, Observation
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.runner import faults
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.spending import Spending
from tests.server.harness import LabHarness


@pytest.fixture
def harness(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    harness = LabHarness(make_lab("faulty", {"slots = 0": "slots = 2"}))
    yield harness
    harness.close()


def queued(harness: LabHarness, count: int) -> list[str]:
    """Launch without a runner to start anything."""
    with runner_lock(harness.state) as mine:
        assert mine
        return harness.launch(count)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), LabError("The disk of /srv/labs/one is full.", "disk_full"), RuntimeError("a fault")]
)
def test_a_runner_whose_rounds_fail_tries_again_and_tells_get_status(
    harness: LabHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.runner.loop.ROUND_RETRY_S", (0.0, 0.0))
    (id,) = queued(harness, 1)
    failures, warnings, changes = [error] * 3, list[str](), harness.ledger.changes

    def fails_three_times() -> int:
        if failures:
            warnings[:] = harness.lab.status().warnings
            raise failures.pop()
        return changes()

    monkeypatch.setattr(harness.ledger, "changes", fails_three_times)
    harness.drive()
    assert harness.ended([id]) and harness.lab.get_experiment(id).failure is None and not failures
    assert str(error) in caplog.text
    (warning,) = [warning for warning in warnings if "failed 2 rounds" in warning]
    assert str(error).replace("/srv/labs/", "") in warning and "/srv" not in warning
    assert not any("rounds" in warning for warning in harness.lab.status().warnings), "it is over"


def test_one_experiment_that_cannot_be_inspected_holds_up_no_other_and_fails_in_the_end(
    harness: LabHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "FAULT_RETRY_S", (0.0, 0.0))
    bad, *good = queued(harness, 5)
    observe, inspections = LocalCompute.observe, 0

    async def fails_for_one(self: LocalCompute, job: Job) -> Observation:
        nonlocal inspections
        inspections += job.id == bad
        if job.id == bad and inspections < 10 * faults.FAULT_LIMIT:
            raise PermissionError(13, "Permission denied", "/srv/labs/one/run")
        return await observe(self, job)

    monkeypatch.setattr(LocalCompute, "observe", fails_for_one)
    harness.drive()
    assert all(harness.lab.get_experiment(id).failure is None for id in good)
    failure = harness.lab.get_experiment(bad).failure
    assert failure is not None and failure.kind == "error" and "Permission denied" in failure.message and "/srv" not in failure.message


def test_an_experiment_that_could_not_be_inspected_for_a_while_goes_on(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FAULT_RETRY_S", (0.0, 0.0))
    (id,) = queued(harness, 1)
    failures, observe = [RuntimeError("a fault")] * (faults.FAULT_LIMIT - 1), LocalCompute.observe

    async def fails_at_first(self: LocalCompute, job: Job) -> Observation:
        if failures:
            raise failures.pop()
        return await observe(self, job)

    monkeypatch.setattr(LocalCompute, "observe", fails_at_first)
    harness.drive()
    assert not failures and harness.lab.get_experiment(id).failure is None


def test_a_fault_while_one_is_started_ends_it_and_the_next_one_starts(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = queued(harness, 2)
    submit = LocalCompute.submit

    async def fails_once(self: LocalCompute, job: Job) -> None:
        if job.id == first:
            raise RuntimeError("a fault")
        await submit(self, job)

    monkeypatch.setattr(LocalCompute, "submit", fails_once)
    harness.drive()
    failure = harness.lab.get_experiment(first).failure
    assert failure is not None and "a fault" in failure.message
    assert harness.lab.get_experiment(second).failure is None


def test_a_fault_while_an_earlier_runners_trainings_are_adopted_keeps_the_runner_alive(
    harness: LabHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopted, fresh = queued(harness, 2)
    harness.ledger.move(adopted, ["queued"], state="running", attempt=1, started_at=0.0)

    async def fails(self: LocalCompute, job: Job) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalCompute, "adopt", fails)
    monkeypatch.setattr(faults, "FAULT_RETRY_S", (0.0, 0.0))
    harness.drive()
    assert harness.lab.get_experiment(fresh).failure is None
    failure = harness.lab.get_experiment(adopted).failure
    assert failure is not None and "Input/output error" in failure.message


@pytest.mark.anyio
async def test_a_cleanup_that_fails_says_so_and_is_tried_again(
    harness: LabHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.runner.spending.CLEANUP_EVERY_S", 0.0)
    failures: list[Exception] = [ComputeError("Modal is away."), ZeroDivisionError("a fault of ours")]
    tidy = anyio.Event()

    class Rented(LocalCompute):
        async def orphans(self, active: Callable[[], Collection[tuple[str, int]]]) -> list[str]:
            if failures:
                raise failures.pop()
            tidy.set()
            return []

    settings = harness.lab.settings.model_copy(deep=True)
    settings.compute.backend = "modal"
    spending = Spending(settings, harness.state, harness.ledger, Rented("tiny", 1, harness.state / "runner.log"))
    with anyio.fail_after(10):
        while not tidy.is_set():
            spending.enforce_budget([])
            await anyio.lowlevel.checkpoint()
    await spending.close()
    assert "a fault of ours" in caplog.text and "Traceback" in caplog.text and "Modal is away." in caplog.text
