"""The example labs: made with their data beside them, and trained and verified for real. The whole campaign is `demo --example NAME`."""

import contextlib
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.server.commands import examples
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.harness import LabHarness

pytest.importorskip("sklearn")
PLAUSIBLE = {"tabular": (0.2, 0.5), "images": (0.5, 0.95)}


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_an_example_is_a_lab_that_verifies_its_metric_and_takes_the_scripted_changes(name: str, tmp_path: Path) -> None:
    lines = create_lab(tmp_path / "lab", example=name)
    assert not any("warning" in line for line in lines) and any("lab-data/hidden" in line for line in lines)
    with contextlib.closing(LabHarness(tmp_path / "lab")) as harness:
        for change in (examples.EXAMPLES[name].better, examples.EXAMPLES[name].worse):
            edits = [{"path": "train.py", "search": change.search, "replace": change.replace}]
            assert harness.lab.propose_patch(change.hypothesis, "ada", edits=edits).commit
        with runner_lock(harness.state):
            (id,) = harness.launch()
        harness.drive(command=(sys.executable, "-m", "autoresearch_mcp.trainer.launch"))
        record = harness.lab.get_experiment(id).experiment
        assert record.state == "finished", record.failure
        lowest, highest = PLAUSIBLE[name]
        assert record.val_bpb is not None and lowest < record.val_bpb < highest and record.reported_bpb is None
        (score,) = [each for _, each in harness.ledger.finished_after(0)]
        assert score.test_bpb is not None and lowest - 0.15 < score.test_bpb < highest + 0.05


def test_an_example_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab-data").mkdir()
    with pytest.raises(LabError, match="is there already"):
        create_lab(tmp_path / "lab", example="tabular")
    (tmp_path / "lab-data").rmdir()
    monkeypatch.setattr(examples, "is_installed", lambda package: package != "sklearn")
    with pytest.raises(LabError, match=r"pip install 'autoresearch-mcp\[sklearn\]'"):
        create_lab(tmp_path / "lab", example="images")
    monkeypatch.undo()
    monkeypatch.setattr("autoresearch_mcp.server.commands.init._move_in", lambda *_: Path("/nowhere/x").mkdir())
    with pytest.raises(LabError, match="could not be made"):
        create_lab(tmp_path / "lab", example="tabular")
    assert list(tmp_path.iterdir()) == []
