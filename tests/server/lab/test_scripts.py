"""Training code of somebody's own, without the contract: run as it is, in the sandbox, and its metric called what it is."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.export import export
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.harness import LabHarness

# As in a fork of autoresearch: a fixed prepare.py with the data's place, a train.py with its own clock, evaluation and printed metric.
PREPARE = """
import os
CACHE_DIR = os.path.join(os.path.expanduser("~"), ".cache", "autoresearch")
def load():
    with open(os.path.join(CACHE_DIR, "data.txt")) as file:
        return [float(line) for line in file]
"""
TRAIN = """
import os, random, sys
from prepare import load
random.seed(int(os.environ.get("AUTORESEARCH_SEED", 42)))
GUESS = 3.0
data = load()
loss = sum((value - GUESS) ** 2 for value in data) / len(data) + random.uniform(0, 0.01)
open("checkpoint.bin", "wb").write(b"x" * 1000)
print("---")
print(f"val_bpb:          {loss:.6f}")
print("peak_vram_mb:     0.0")
"""


def git(root: Path, *args: str) -> None:
    subprocess.run(["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org", *args], check=True, capture_output=True)


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    (home / ".cache" / "autoresearch").mkdir(parents=True)
    (home / ".cache" / "autoresearch" / "data.txt").write_text("1\n2\n3\n", encoding="utf-8")
    (home / "secret.txt").write_text("hunter2", encoding="utf-8")
    monkeypatch.setenv("HOME", str(home))
    root = tmp_path / "fork"
    root.mkdir()
    git(root, "init", "-q")
    for path, text in {"prepare.py": PREPARE, "train.py": TRAIN, "program.md": "# Do research\n"}.items():
        (root / path).write_text(text, encoding="utf-8")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "A fork")
    return root


@pytest.fixture
def harness(fork: Path, tmp_path: Path) -> Iterator[LabHarness]:
    lines = create_lab(tmp_path / "lab", fork, profile="tiny", budget_s=20.0)
    assert any("reported, not verified" in line for line in lines) and not (tmp_path / "lab" / "trainer").exists()
    harness = LabHarness(tmp_path / "lab")
    yield harness
    harness.close()


def test_a_fork_of_autoresearch_becomes_a_lab_that_runs_it_as_it_is(harness: LabHarness) -> None:
    loaded = settings.load(harness.root)
    training = loaded.training
    assert (loaded.metric.name, training.files, training.data) == ("val_bpb", ["prepare.py"], "~/.cache/autoresearch")
    assert settings.load(harness.root).promotion.reported == "refuse"


def train(harness: LabHarness, commits: list[str], replicates: int = 3) -> None:
    with runner_lock(harness.state):
        for commit in commits:
            harness.lab.launch_training(commit, "ada", replicates)
    harness.drive(command=(sys.executable, "-m", "autoresearch_mcp.trainer.launch"))


def propose(harness: LabHarness, guess: str) -> str:
    edits = [{"path": "train.py", "search": "GUESS = 3.0", "replace": guess}]
    return harness.lab.propose_patch("A better guess lowers the loss.", "ada", edits=edits).commit


def test_a_script_is_trained_marked_as_reported_and_promoted_only_where_the_owner_allows_it(harness: LabHarness, tmp_path: Path) -> None:
    better = propose(harness, "GUESS = 2.0")
    train(harness, ["champion", better])
    status = harness.lab.status()
    assert status.champion.reported and status.champion.mean == pytest.approx(1.672, abs=0.006) and status.noise_sd is not None
    assert [row.reported for row in status.leaderboard] == [True, True] and status.leaderboard[0].commit == better
    assert "verified by nobody" in status.metric and any("nothing can be promoted" in warning for warning in status.warnings)
    rows = harness.lab.query_experiments(ExperimentQuery(order_by="reported_bpb", descending=False)).rows
    assert len(rows) == 6 and all(row["val_bpb"] is None and row["reported_bpb"] > 0 for row in rows) and rows[0]["commit"] == better
    assert "nobody verified" in harness.lab.get_experiment(rows[0]["id"]).against_champion
    assert harness.lab.get_experiment(rows[0]["id"]).details["sandbox"] != "unsandboxed"
    refused = harness.lab.promote_commit(better, "ada")
    assert not refused.promoted and refused.verdict.code == "reported"

    export(harness.lab, tmp_path / "out")
    exported = (tmp_path / "out" / "results.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(exported) == 6 and all("\t[reported] " in line and "crash" not in line for line in exported)

    toml = harness.root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace('reported = "refuse"', 'reported = "allow"'), encoding="utf-8")
    with contextlib.closing(LabHarness(harness.root)) as allowed:
        check_that_it_promotes(allowed, better)


def check_that_it_promotes(harness: LabHarness, better: str) -> None:
    train(harness, ["champion"], 5)
    with contextlib.closing(sqlite3.connect(harness.state / "ledger.sqlite")) as db, db:  # as if the lab had launched them
        db.execute('UPDATE ended SET by_lab = 1 WHERE "commit" = ?', (harness.lab.champion(),))
    answer = harness.lab.promote_commit(better, "ada")
    assert answer.promoted and answer.verdict.metric == "reported" and "nobody verified" in answer.verdict.reason
    picture = harness.lab.plot_progress()
    assert "val_bpb, as the training code prints it" in picture.text and "reported" in picture.text.splitlines()[0]
    assert harness.lab.status().champion.reported


PEEK = """GUESS = 2.0
for path in {paths}:
    try:
        print("READ", open(path).read())
    except OSError as error:
        print("refused", type(error).__name__)"""


def test_a_script_sees_its_data_and_its_own_copy_of_the_code_and_nothing_else(harness: LabHarness) -> None:
    commit = propose(harness, PEEK.format(paths=[str(harness.root.parent / "home" / "secret.txt"), str(harness.root / "lab.toml")]))
    train(harness, [commit], 1)
    (id, *_) = [row["id"] for row in harness.lab.query_experiments().rows]
    log = harness.lab.read_log(id)
    assert log.count("refused") == 2 and "READ" not in log
    assert harness.lab.get_experiment(id).experiment.state == "finished"


@pytest.mark.parametrize(
    ("ending", "kind", "words"),
    [
        ("GUESS = 2.0\nsys.exit(0)", "error", "without printing a line `val_bpb: NUMBER`"),
        ("GUESS = 2.0\nraise RuntimeError('no luck')", "error", "no luck"),
        ("GUESS = 2.0\nwhile True: pass", "timeout", "without ending"),
    ],
)
def test_a_script_that_fails_is_classed_like_any_training(harness: LabHarness, ending: str, kind: str, words: str) -> None:
    toml = harness.root / "lab.toml"
    if kind == "timeout":
        toml.write_text(toml.read_text(encoding="utf-8").replace("budget_s = 20 ", "budget_s = 1.5 "), encoding="utf-8")
    commit = propose(harness, ending)
    train(harness, [commit], 1)
    failures = [harness.lab.get_experiment(row["id"]).failure for row in harness.lab.query_experiments().rows]
    assert all(failure is not None and failure.kind == kind and words in failure.message for failure in failures), failures
    told = " ".join(f"{failure.message} {failure.advice}" for failure in failures if failure)
    assert "submit" not in told and "run.progress" not in told


def lab_toml(tmp_path: Path, text: str) -> settings.Settings:
    (tmp_path / "lab.toml").write_text('[lab]\nname = "x"\n[training]\n' + text, encoding="utf-8")
    return settings.load(tmp_path)


def test_another_entry_with_arguments_and_other_files(tmp_path: Path) -> None:
    loaded = lab_toml(tmp_path, 'entry = "run.py --depth 4"\neditable = ["model/**"]\nfiles = ["run.py"]\nreported_metric = "loss"\n')
    assert loaded.trust == "reported" and loaded.longest_s() < 70


def test_a_launch_keeps_what_is_read_and_not_how_it_is_judged(tmp_path: Path) -> None:
    metric = '[metric]\nname = "acc"\ngoal = "{}"\n[[metric.guard]]\nname = "ms"\nmargin = {}\n'
    first, second = lab_toml(tmp_path, metric.format("min", 1)), lab_toml(tmp_path, metric.format("max", 2))
    assert first.launch() == second.launch() and not second.changed_since(first.launch())
    assert lab_toml(tmp_path, metric.format("max", 2).replace("acc", "f1")).changed_since(first.launch()) == ["[metric] name"]
    assert lab_toml(tmp_path, 'reported_metric = "acc"\n').launch() == lab_toml(tmp_path, '[metric]\nname = "acc"\n').launch()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("entry = '../run.py'", "[training] entry must name a Python file"),
        ("entry = 'run.py'", 'editable must contain "run.py"'),
        ("files = ['/etc/passwd']", "[training] files must hold paths inside"),
        ("data = '/srv/text'", "[training] data must be left out unless [metric] name"),
        ("reported_metric = 'loss'\ndata = 'here'", "[training] data must be an absolute path"),
        ("reported_metric = 'loss'\ndata = '/'", "[training] data must not hold the lab itself"),
        ('reported_metric = "a\\tb"', "[training] reported_metric must"),
        ("[metric]\nname = 'acc'\npattern = 'acc (.*'", "[metric] pattern must be a regular expression"),
        ("[metric]\nname = 'acc'\npattern = 'acc'", "[metric] pattern must have one group"),
        ("[metric]\nname = 'acc'\nsource = '../metrics.json'", "[metric] source must"),
        ("[metric]\ngoal = 'max'", "[metric] must have a name"),
        ("reported_metric = 'loss'\n[metric]\nname = 'acc'", "must be the same"),
        ("[metric]\nname = 'acc'\n[[metric.guard]]\nname = 'ms'", "name a margin or a bound"),
        (
            "reported_metric = 'loss'\npython = '/usr/bin/python3'\n[compute]\nbackend = 'modal'",
            "[training] python must be left out on Modal",
        ),
        ("[compute]\nbackend = 'modal'\n[compute.modal]\npackages = ['numpy']", "packages must be left out unless [metric] name"),
        ("[compute.modal]\npackages = ['numpy>=2', 'git+https://x/y']", "'git+https://x/y' is neither"),
        ("[compute.modal]\npackages = ['-r ../requirements.txt']", "'-r ../requirements.txt' is neither"),
    ],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(LabError) as error:
        lab_toml(tmp_path, line)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new"), [('backend = "local"', 'backend = "slurm"\nlogin = "cluster"'), ("budget_s", "python = '/other/bin/python'\nbudget_s")]
)
def test_what_another_machine_or_interpreter_may_have_installed_is_not_refused(harness: LabHarness, old: str, new: str) -> None:
    edits = [{"path": "train.py", "search": "import os,", "replace": "import a_module_that_is_nowhere, os,"}]
    with pytest.raises(LabError, match="imports a_module_that_is_nowhere"):
        harness.lab.propose_patch("It may help.", "ada", edits=edits)
    toml = harness.root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    commit = harness.lab.propose_patch("It may help.", "ada", edits=edits).commit
    with runner_lock(harness.state):
        assert harness.lab.launch_training(commit, "ada").experiments
    wrong = [{"path": "train.py", "search": "GUESS = 3.0", "replace": "GUESS = = 3.0"}]
    with pytest.raises(LabError, match="would not parse"):
        harness.lab.propose_patch("It may help.", "ada", edits=wrong)


def test_a_lab_whose_data_is_gone_says_so(harness: LabHarness, fork: Path) -> None:
    (Path.home() / ".cache" / "autoresearch").rename(Path.home() / "moved")
    assert any("there is no folder ~/.cache/autoresearch" in warning for warning in harness.lab.status().warnings)
    with pytest.raises(LabError, match="no folder"):
        harness.lab.launch_training("champion", "ada")
