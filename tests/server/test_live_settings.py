"""lab.toml is read again when it changes: by the file itself, and by a server that is open."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.settings import SettingsFile
from tests.server.lab.test_lab import refusal


@pytest.fixture
def lab(lab_root: Path) -> Iterator[Lab]:
    with runner_lock(LabPaths(lab_root).state):  # so nothing is trained
        opened = Lab(lab_root)
        yield opened
        opened.close()


def edit(root: Path, old: str, new: str) -> None:
    path = LabPaths(root).settings
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def write(path: Path, name: str, age_s: float = 0.0) -> None:
    path.write_text(f"[lab]\nname = {name}\n", encoding="utf-8")
    changed = path.stat().st_mtime - age_s
    os.utime(path, (changed, changed))


def test_a_change_holds_from_the_next_look(tmp_path: Path) -> None:
    write(tmp_path / "lab.toml", "'one'", age_s=60)
    file = SettingsFile(tmp_path)
    assert file.current().lab.name == "one" and file.current() is file.current()
    write(tmp_path / "lab.toml", "'two'", age_s=30)
    assert file.current().lab.name == "two"


def test_two_changes_within_one_tick_of_the_clock_are_both_seen(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    write(path, "'one'")
    file, clock = SettingsFile(tmp_path), path.stat()
    write(path, "'two'")
    os.utime(path, ns=(clock.st_atime_ns, clock.st_mtime_ns))
    assert file.current().lab.name == "two"


def test_a_file_that_another_one_replaces_is_read_though_time_and_size_are_the_same(tmp_path: Path) -> None:
    path, other = tmp_path / "lab.toml", tmp_path / "other.toml"
    write(path, "'one'", age_s=60)
    file, clock = SettingsFile(tmp_path), path.stat()
    write(other, "'two'")
    os.utime(other, ns=(clock.st_atime_ns, clock.st_mtime_ns))
    other.replace(path)
    assert file.current().lab.name == "two"


def test_an_edit_that_is_not_valid_leaves_the_settings_from_before_and_says_why_until_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "lab.toml"
    write(path, "'one'", age_s=60)
    file = SettingsFile(tmp_path)
    assert file.problem() == ""
    write(path, "7", age_s=30)
    assert file.current().lab.name == "one"
    assert file.problem() == "lab.toml: [lab] name must be a valid string, got 7."
    path.unlink()
    assert file.current().lab.name == "one" and "has no lab.toml" in file.problem()
    write(path, "'two'", age_s=20)
    assert file.current().lab.name == "two" and file.problem() == ""


def test_a_file_that_is_not_valid_from_the_start_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "lab.toml", "7")
    with pytest.raises(LabError) as error:
        SettingsFile(tmp_path)
    assert error.value.code == "bad_settings"


def test_a_budget_that_the_owner_raises_pays_for_the_next_launch(lab: Lab) -> None:
    edit(lab.root, "device_hours = 8.0", "device_hours = 0.0001")
    assert refusal(lambda: lab.launch_training("champion", "ada")).code == "over_budget"
    edit(lab.root, "device_hours = 0.0001", "device_hours = 2.0")
    assert lab.launch_training("champion", "ada").experiments
    assert lab.status().budget.total_s == 7200.0


def test_a_path_that_becomes_editable_can_be_proposed(lab: Lab) -> None:
    change = {"train.py": lab.read_file("train.py").text, "notes/idea.txt": "wider\n"}
    assert refusal(lambda: lab.propose_patch("Wider.", "ada", files=change)).code == "not_editable"
    edit(lab.root, 'editable = ["train.py"]', 'editable = ["train.py", "notes/**"]')
    assert not lab.propose_patch("Wider.", "ada", files=change).duplicate


def test_an_edit_that_is_not_valid_is_a_warning_in_the_status(lab: Lab) -> None:
    assert not any("lab.toml" in warning for warning in lab.status().warnings)
    edit(lab.root, "slots = 0", "slots = -1")
    assert any("[compute] slots must be greater than or equal to 0, got -1." in warning for warning in lab.status().warnings)


def test_a_launch_says_whether_an_edit_that_is_not_valid_keeps_it_from_starting(lab_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.lab.core.ensure_runner", lambda *_: False)  # it would end at once
    lab = Lab(lab_root)
    edit(lab.root, "slots = 0", "slots = -1")
    with runner_lock(LabPaths(lab.root).state):
        assert lab.launch_training("champion", "ada").note.startswith("Queued. Wait with wait_for_experiments. How long")
        assert not any("nothing starts" in warning for warning in lab.status().warnings)
    note = lab.launch_training("champion", "ada").note
    assert "Nothing starts until the lab's owner corrects lab.toml." in note and "[compute] slots must be" in note
    assert any("nothing starts until it is corrected" in warning for warning in lab.status().warnings)
    edit(lab.root, "slots = -1", "slots = 1")
    assert lab.launch_training("champion", "ada").note.startswith("Queued. Wait with wait_for_experiments. How long")
    lab.close()


def test_a_change_that_does_not_reach_what_is_queued_says_so(lab: Lab) -> None:
    lab.launch_training("champion", "ada", replicates=2)
    assert not any("launched" in warning for warning in lab.status().warnings)
    edit(lab.root, "threads = 1", "threads = 2")
    (warning,) = [warning for warning in lab.status().warnings if "launched" in warning]
    assert "2 experiments" in warning and "[training] threads" in warning


def test_another_store_of_the_log_waits_for_the_next_start_and_says_so(lab: Lab) -> None:
    edit(lab.root, '[lake]\nbackend = "auto"', '[lake]\nbackend = "embedded"')
    (warning,) = [warning for warning in lab.status().warnings if "Restart" in warning]
    assert warning.startswith("[lake] changed in lab.toml")


def test_a_promotion_is_judged_by_the_rules_of_now(lab: Lab) -> None:
    commit = lab.propose_patch("Other.", "ada", files={"train.py": lab.read_file("train.py").text + "\nX = 1\n"}).commit
    assert lab.promote_commit(commit, "ada").verdict.level == 0.005
    edit(lab.root, "level = 0.005", "level = 0.01")
    assert lab.promote_commit(commit, "ada").verdict.level == 0.01
