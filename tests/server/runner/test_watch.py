"""The runner notices what happens to its lab: new settings hold from then on, and in a lab that moved nothing is recorded."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server import compute, settings
from autoresearch_mcp.server.compute.base import Job
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger.experiments import OpenExperiments
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner import loop, process
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner
from autoresearch_mcp.server.runner.watch import LabWatch
from tests.server.harness import NOOP, LabHarness


@pytest.fixture
def harness(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    harness = LabHarness(make_lab("watched", {"slots = 0": "slots = 1"}))
    yield harness
    harness.close()


def open_noop(_settings: settings.Settings, _state: Path, log: Path) -> LocalCompute:
    return LocalCompute("tiny", 1, log, command=NOOP)


def spec(root: Path, id: str) -> dict[str, Any]:
    """The spec of an experiment's first attempt."""
    answer: dict[str, Any] = json.loads((LabPaths(root).run(id, 1) / "spec.json").read_text(encoding="utf-8"))
    return answer


def edit(root: Path, old: str, new: str) -> None:
    path = LabPaths(root).settings
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_what_is_launched_after_a_change_of_lab_toml_runs_under_the_new_settings(
    harness: LabHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "open_compute", open_noop)
    monkeypatch.setattr(loop.Runner.run, "__defaults__", (0.0,))
    later, submit = list[str](), LocalCompute.submit

    async def submit_and_edit(self: LocalCompute, job: Job) -> None:
        await submit(self, job)
        if not later:
            edit(harness.root, "budget_s = 1 ", "budget_s = 7 ")
            server = Lab(harness.root)
            later.extend(server.launch_training("champion", "ada").experiments)
            server.close()

    monkeypatch.setattr(LocalCompute, "submit", submit_and_edit)
    with runner_lock(harness.state):
        (first,) = harness.launch()
    assert process.main(harness.root) == 0
    assert (spec(harness.root, first)["budget_s"], spec(harness.root, later[0])["budget_s"]) == (1, 7)
    conditions = [harness.ledger.ended([id])[id]["conditions"] for id in (first, *later)]
    assert conditions[0] != conditions[1], "they can't be compared"


def test_experiments_launched_for_another_number_of_threads_wait_until_those_before_them_have_ended(
    make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, threads = LabHarness(make_lab("threads", {"slots = 0": "slots = 2"})), list[int]()

    def open_counted(ours: settings.Settings, state: Path, log: Path) -> LocalCompute:
        threads.append(ours.training.threads)
        return open_noop(ours, state, log)

    monkeypatch.setattr(compute, "open_compute", open_counted)
    monkeypatch.setattr(loop.Runner.run, "__defaults__", (0.0,))
    with runner_lock(harness.state):
        before = harness.launch(3)
        edit(harness.root, "threads = 1", "threads = 2")
        server = Lab(harness.root)
        after = server.launch_training("champion", "ada", 2).experiments
        server.close()
    assert process.main(harness.root) == 0
    assert threads == [1, 2]
    assert [spec(harness.root, id)["threads"] for id in (*before, *after)] == [1, 1, 1, 2, 2]
    rows = harness.ledger.ended([*before, *after])
    assert max(rows[id]["finished_at"] for id in before) < min(rows[id]["finished_at"] for id in after)
    harness.close()


def test_an_edit_while_the_runner_opens_the_lab_holds_for_it_too(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    slots, next_launch = list[int](), OpenExperiments.next_launch

    def open_counted(ours: settings.Settings, state: Path, log: Path) -> LocalCompute:
        slots.append(ours.slots)
        return open_noop(ours, state, log)

    def edit_meanwhile(self: OpenExperiments) -> settings.LaunchSettings | None:
        if not slots:
            edit(harness.root, "slots = 1", "slots = 3")
        return next_launch(self)

    monkeypatch.setattr(compute, "open_compute", open_counted)
    monkeypatch.setattr(loop.Runner.run, "__defaults__", (0.0,))
    monkeypatch.setattr(OpenExperiments, "next_launch", edit_meanwhile)
    with runner_lock(harness.state):
        harness.launch()
    assert process.main(harness.root) == 0
    assert slots == [1, 3]


def test_an_invalid_change_of_lab_toml_leaves_the_runner_at_work(
    harness: LabHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compute, "open_compute", open_noop)
    monkeypatch.setattr(loop.Runner.run, "__defaults__", (0.0,))
    submit, edited = LocalCompute.submit, list[str]()

    async def submit_and_edit(self: LocalCompute, job: Job) -> None:
        await submit(self, job)
        if not edited:
            edit(harness.root, "slots = 1", "slots = -1")
            edited.append(job.id)

    monkeypatch.setattr(LocalCompute, "submit", submit_and_edit)
    with runner_lock(harness.state):
        ids = harness.launch(3)
    assert process.main(harness.root) == 0
    assert all(harness.ledger.ended([id])[id]["state"] == "finished" for id in ids)
    assert "[compute] slots" in caplog.text


@pytest.mark.parametrize("when", ["between two rounds", "while a run is started"])
def test_the_runner_of_a_lab_that_moved_leaves_and_records_nothing(harness: LabHarness, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    old, new = harness.root, harness.root.with_name("elsewhere")
    editable_files = Repo.editable_files

    def moved_meanwhile(self: Repo, commit: str) -> dict[str, bytes]:
        if when == "while a run is started":
            old.rename(new)
        return editable_files(self, commit)

    monkeypatch.setattr(Repo, "editable_files", moved_meanwhile)
    lake = EmbeddedLake(harness.state / "lake")
    paths = LabPaths(old)
    with runner_lock(paths.state) as lock:
        assert lock is not None
        (id,) = harness.launch()
        file = settings.SettingsFile(old)
        watch = LabWatch(paths, file, file.current(), lock)
        runner = Runner(
            harness.lab.settings,
            paths.state,
            harness.ledger,
            Repo(old),
            lake,
            open_noop(harness.lab.settings, paths.state, paths.runner_log),
            watch,
        )
        if when == "between two rounds":
            old.rename(new)
        assert anyio.run(runner.run) == "moved"
    lake.close()
    monkeypatch.setattr(Repo, "editable_files", editable_files)
    assert not old.exists(), "nothing was written where the lab was"
    there = LabHarness(new)
    assert there.record(id).failure is None and not there.record(id).terminal
    there.drive()
    answer = there.lab.get_experiment(id)
    assert answer.experiment.state == "finished" and answer.failure is None
    there.close()
