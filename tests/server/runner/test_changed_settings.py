"""lab.toml changes while experiments wait or run: what was reserved is what runs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server import compute
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner import loop, process
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.trainer import protocol
from tests.server.harness import NOOP, LabHarness


@pytest.fixture
def harness(lab_root: Path) -> Iterator[LabHarness]:
    harness = LabHarness(lab_root)
    yield harness
    harness.close()


def edit(root: Path, old: str, new: str) -> None:
    path = LabPaths(root).settings
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def spec(harness: LabHarness, id: str) -> dict[str, object]:
    return protocol.read_json(LabPaths(harness.root).run(id, 1) / protocol.SPEC) or {}


def test_an_experiment_runs_under_the_settings_that_it_was_launched_under(harness: LabHarness) -> None:
    with runner_lock(harness.state):
        (id,) = harness.launch()
    budget_s = harness.lab.settings.training.budget_s
    edit(harness.root, "[training]\n", "[training]\nattention = 'sdpa'\nentry = 'train.py --late'\n")
    edit(harness.root, f"budget_s = {budget_s:g} ", f"budget_s = {2 * budget_s:g} ")
    edit(harness.root, "[compute]\n", "[compute]\nquiet = false\n")
    harness.drive()
    assert harness.state_of(id) == "finished"
    run = spec(harness, id)
    assert (run["budget_s"], run["attention"], run["arguments"]) == (budget_s, "auto", [])
    assert run["quiet"] is False, "it says how runs share this machine now"


def test_what_an_older_program_queued_runs_under_the_settings_of_the_lab(harness: LabHarness) -> None:
    with runner_lock(harness.state):
        (id,) = harness.launch()
    older = harness.record(id).model_copy(update={"id": id[:-1] + ("0" if id[-1] != "0" else "1")})
    harness.ledger.enqueue([older], 1e9, None, "r")
    edit(harness.root, "[training]\n", "[training]\nattention = 'sdpa'\n")
    harness.drive()
    assert (spec(harness, id)["attention"], spec(harness, older.id)["attention"]) == ("auto", "sdpa")


def test_the_files_of_a_run_are_those_that_could_be_edited_at_its_launch(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("moving", {'editable = ["train.py"]': 'editable = ["train.py", ".mcp.json"]'}))
    with runner_lock(harness.state):
        (id,) = harness.launch()
    edit(harness.root, 'editable = ["train.py", ".mcp.json"]', 'editable = ["train.py"]')
    harness.drive()
    code = LabPaths(harness.root).run(id, 1) / protocol.CODE
    assert sorted(path.name for path in code.iterdir()) == [".mcp.json", "train.py"]
    harness.close()


def test_what_was_launched_for_this_machine_runs_here_though_lab_toml_rents_by_then(
    harness: LabHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[str]()

    def open_noop(settings: Settings, _state: Path, log: Path) -> LocalCompute:
        opened.append(settings.compute.backend)
        assert settings.compute.backend == "local", "else the loop begins again and again"
        return LocalCompute("tiny", 1, log, command=NOOP)

    monkeypatch.setattr(compute, "open_compute", open_noop)
    monkeypatch.setattr(loop.Runner.run, "__defaults__", (0.0,))
    with runner_lock(harness.state):
        (id,) = harness.launch()
    edit(harness.root, 'backend = "local"', 'backend = "modal"')
    assert process.main(harness.root) == 0
    assert harness.ledger.ended([id])[id]["state"] == "finished" and opened == ["local"]
    assert harness.ledger.money()[0] == 0.0
