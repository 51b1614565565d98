"""A lab whose owner's answers score the code: verified, with the metric's own goal, kept apart from what trainings read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands import check
from autoresearch_mcp.server.commands.hidden_scores import hidden_scores
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.rule import Noise, Rules, Run, decide
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.trainer import measures
from tests.server.harness import LabHarness

pytest.importorskip("sklearn")
TRAIN = """
import os, random
random.seed(int(os.environ["AUTORESEARCH_SEED"]))
inputs = [int(line) for line in open(os.environ["AUTORESEARCH_DATA"] + "/inputs.txt")]
RIGHT = 0.5
with open("predictions.csv", "w") as file:
    print("label", *(x % 2 if random.random() < RIGHT else 1 - x % 2 for x in inputs), sep="\\n", file=file)
print("accuracy: 1.0")
"""
LAB = """[lab]
name = "own"
[training]
budget_s = 20
data = "{folder}/public"
[metric]
name = "accuracy"
[scorer]
kind = "predictions"
hidden = "{folder}/hidden"
"""


def make(folder: Path) -> Path:
    (folder / "public").mkdir(parents=True)
    numbers = [17 * n % 101 for n in range(297)]
    (folder / "public" / "inputs.txt").write_text("\n".join(map(str, numbers)), encoding="utf-8")
    for part, of_part in (("validation", numbers[:200]), ("test", numbers[200:])):
        (folder / "hidden" / part).mkdir(parents=True)
        text = "\n".join(["label", *(str(x % 2) for x in of_part)])
        (folder / "hidden" / part / "answers.csv").write_text(text, encoding="utf-8")
    repository = folder / "repository"
    repository.mkdir()
    (repository / "train.py").write_text(TRAIN, encoding="utf-8")
    (repository / "lab.toml").write_text(LAB.format(folder=folder), encoding="utf-8")
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Mine"]):
        subprocess.run([*git, *command], check=True)
    return repository


def test_a_lab_with_answers_of_its_own_verifies_its_metric_and_shows_it_as_such(tmp_path: Path) -> None:
    lines = create_lab(tmp_path / "lab", make(tmp_path / "own"), "tiny")
    assert not any("not verified" in line for line in lines)
    (finding,) = [each for each in check.examine(tmp_path / "lab", seconds=20) if each.name == "metric"]
    assert finding.text == "what the lab's scorer takes was left; accuracy isn't measured here"
    harness = LabHarness(tmp_path / "lab")
    edits = [{"path": "train.py", "search": "RIGHT = 0.5", "replace": "RIGHT = 0.9"}]
    better = harness.lab.propose_patch("Look at the inputs.", "ada", edits=edits).commit
    with runner_lock(harness.state):
        for commit in ("champion", better):
            harness.lab.launch_training(commit, "ada", 1)
    harness.drive(command=(sys.executable, "-m", "autoresearch_mcp.trainer.launch"))
    status = harness.lab.status()
    assert "accuracy, verified: measured by the scorer; higher is better" in status.metric
    assert status.leaderboard[0].commit == better and status.champion.reported is None
    best, *_, worst = harness.lab.query_experiments(ExperimentQuery(order_by="val_bpb")).rows
    assert best["commit"] == better and best["val_bpb"] > 0.8 > 0.7 > worst["val_bpb"]
    full = harness.lab.get_experiment(best["id"])
    assert "better than the champion" in full.against_champion and full.experiment.reported_bpb == 1.0
    scores = {row.commit: row for row in hidden_scores(harness.root)}
    assert 0.75 < scores[better].test_bpb <= 1.0 and str(scores[better].test_bpb) not in json.dumps(full.model_dump(), default=str)
    assert "The metric is accuracy, measured by the lab; higher is better." in harness.lab.plot_progress().text
    (tmp_path / "own" / "hidden").rename(tmp_path / "own" / "moved")
    assert any("there is no folder" in warning and "[scorer]" in warning for warning in harness.lab.status().warnings)
    verdict = harness.lab.promote_commit(better, "ada").verdict
    assert verdict.code == "champion" and verdict.metric == "verified"
    harness.close()


def test_validation_answers_that_were_guessed_from_its_numbers_gain_nothing_on_the_hidden_split() -> None:
    random = np.random.default_rng(7)
    answers = random.integers(2, size=300).astype(float)  # of validation 200, of the hidden split 100

    def score(guess: np.ndarray) -> Run:
        validation, hidden = (
            measures.measure("accuracy", measures.check("accuracy", guess[part], answers[part], 2), answers[part], 2)
            for part in (slice(200), slice(200, 300))
        )
        return Run(measures.shown("accuracy", validation), hidden)

    guess = random.integers(2, size=300).astype(float)
    first = level = score(guess)
    for row in range(200):  # one experiment a bit: its four digits tell whether the row was right
        guess[row] = 1 - guess[row]
        level, before = score(guess), level
        if level.metric < before.metric:
            guess[row], level = 1 - guess[row], before
    assert level.metric == 1.0 and level.hidden == first.hidden
    decision = decide([level] * 3, [first] * 8, Noise(0.02, 30), Rules(goal="max"))
    assert decision.verdict == "not_confirmed"


def refused(tmp_path: Path, text: str) -> str:
    (tmp_path / "lab").mkdir(exist_ok=True)
    (tmp_path / "lab" / "lab.toml").write_text('[lab]\nname = "x"\n' + text, encoding="utf-8")
    with pytest.raises(LabError) as error:
        settings.load(tmp_path / "lab")
    return str(error.value)


@pytest.mark.parametrize(
    ("metric", "scorer", "words"),
    [
        ("name = 'accuracy'", "kind = 'predictions'", "name the folder with the answers"),
        ("name = 'accuracy'", "kind = 'predictions'\nhidden = 'here'", "[scorer] hidden must be an absolute path"),
        (
            "name = 'accuracy'",
            "kind = 'predictions'\nhidden = '{lab}/answers'",
            "[scorer] hidden, in {lab}/answers, and the lab must be apart",
        ),
        ("name = 'accuracy'", "kind = 'predictions'\nhidden = '{data}/answers'", "and [training] data must be apart"),
        ("name = 'accuracy'", "kind = 'command'\nhidden = '/answers'", "name a file with kind"),
        (
            "name = 'x'",
            "kind = 'command'\nhidden = '/answers'\nfile = '{lab}/score.py'",
            "[scorer] file, in {lab}, and the lab must be apart",
        ),
        (
            "name = 'x'",
            "kind = 'command'\nhidden = '/own/answers'\nfile = '/own/score.py'",
            "[scorer] hidden, in /own/answers, and [scorer] file",
        ),
        ("name = 'bleu'", "kind = 'predictions'\nhidden = '/answers'", "[metric] name must be one of accuracy, balanced accuracy"),
        ("name = 'accuracy'\ngoal = 'min'", "kind = 'predictions'\nhidden = '/answers'", '[metric] goal must be "max" for accuracy'),
        ("name = 'accuracy'\npattern = '(.*)'", "kind = 'predictions'\nhidden = '/answers'", "pattern and source must be left out"),
        ("", "kind = 'predictions'\nhidden = '/answers'", "[scorer] needs [metric] name"),
        ("name = 'accuracy'", "kind = 'predictions'\nhidden = '/answers'\nsubmission = 'a/../../b'", "inside the run's folder"),
    ],
)
def test_scorers_that_would_verify_nothing_are_refused(tmp_path: Path, metric: str, scorer: str, words: str) -> None:
    places = {"lab": tmp_path / "lab", "data": tmp_path / "data"}
    text = f"[training]\ndata = '{places['data']}'\n[metric]\n{metric}\n[scorer]\n{scorer.format(**places)}\n"
    assert words.format(**places) in refused(tmp_path, text)


def test_a_metric_that_the_lab_knows_brings_its_goal_and_a_launch_keeps_its_scorer(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "lab.toml").write_text(LAB.format(folder=tmp_path / "own"), encoding="utf-8")
    loaded = settings.load(lab)
    assert loaded.metric.better == "max" and loaded.trust == "verified" and loaded.is_script and loaded.promotion.metric.better == "max"
    launch = loaded.launch()
    assert settings.LaunchSettings.model_validate_json(launch.model_dump_json()) == launch
    (lab / "lab.toml").write_text(LAB.format(folder=tmp_path / "other"), encoding="utf-8")
    assert settings.load(lab).changed_since(launch) == ["[training] data", "[scorer] hidden"]
