"""Sweeps: constants of a commit are tuned by ordinary trials, whatever happens to the runner, the budget or a trial."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.answers import Range, SweepLine
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Sampler
from autoresearch_mcp.server.runner import sweeps
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.harness import LabHarness
from tests.server.runner.test_killed_candidacies import Assassin, Killed

DRAWING = (sys.executable, str(Path(__file__).parents[2] / "bench" / "drawing_launcher.py"), "0", "0.0")
RATE = {"UNEMBEDDING_LR": Range(low=0.001, high=0.1, log=True)}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHarness]:
    """A lab with two slots, in which nothing starts before `drive`. Each test sweeps constants of its own."""
    root = tmp_path_factory.mktemp("labs") / "sweeping"
    create_lab(root, profile="tiny", budget_s=1.0)
    toml = root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("slots = 0", "slots = 2"), encoding="utf-8")
    harness = LabHarness(root)
    yield harness
    harness.close()


def launch(
    harness: LabHarness,
    trials: int,
    parameters: dict[str, Range] = RATE,
    parallel: int = 2,
    sampler: Sampler = "tpe",
    key: str | None = None,
) -> str:
    with runner_lock(harness.state):  # so that a call starts no runner
        return harness.lab.launch_sweep("champion", "ada", parameters, trials, parallel, key, sampler).id


def line(harness: LabHarness, id: str) -> SweepLine:
    (sweep,) = harness.lab.sweeps([id])
    return sweep


def drive(harness: LabHarness) -> None:
    harness.drive(command=DRAWING)


def test_every_trial_is_a_proposal_and_an_experiment_of_its_own(harness: LabHarness) -> None:
    id = launch(harness, 3, RATE | {"PRINT_EVERY": Range(low=1, high=300)})
    drive(harness)
    swept = line(harness, id)
    assert (swept.state, swept.ended, swept.failed, swept.left) == ("done", 3, 0, 0)
    trials = harness.ledger.trials(id)
    for trial in trials:
        proposal = harness.ledger.proposal(trial.commit)
        assert proposal is not None and proposal.author == "ada" and {"sweep", id} <= set(proposal.tags)
        assert f"UNEMBEDDING_LR = {trial.values['UNEMBEDDING_LR']}" in harness.lab.read_file("train.py", trial.commit).text
        assert 0.001 <= float(trial.values["UNEMBEDDING_LR"]) <= 0.1 and 1 <= int(trial.values["PRINT_EVERY"]) <= 300
    assert swept.best is not None and swept.best_values in [trial.values for trial in trials]
    trained = [each.commit for each in harness.ledger.starts(100)]
    assert [trained.count(trial.commit) for trial in trials] == [1, 1, 1], "each once"


RATES = {"MATRIX_LR": Range(choices=["0.01", "0.02", "0.03"])}


def killed(harness: LabHarness, number: int, after: bool) -> None:
    """Kill the runner at its write of this number."""
    plain, harness.ledger = harness.ledger, Ledger(harness.state / "ledger.sqlite")
    assassin = Assassin(harness.ledger, number, after)
    with pytest.raises(Killed):
        drive(harness)
    assert assassin.left <= 0
    harness.ledger.close()
    harness.ledger = plain


def test_a_runner_killed_at_any_write_goes_on_and_doubles_nothing(harness: LabHarness) -> None:
    id = launch(harness, 3, RATES, key="the-same-key", sampler="grid")
    assert launch(harness, 3, RATES, key="the-same-key", sampler="grid") == id
    with pytest.raises(LabError, match="another launch"):
        launch(harness, 2, RATES, key="the-same-key", sampler="grid")
    for number, after in ((1, False), (1, True), (3, True)):
        killed(harness, number, after)
    drive(harness)
    trials = harness.ledger.trials(id)
    assert [(trial.number, trial.values["MATRIX_LR"]) for trial in trials] == [(0, "0.01"), (1, "0.02"), (2, "0.03")]
    assert (line(harness, id).state, line(harness, id).ended) == ("done", 3)
    trained = [each.experiment for each in harness.ledger.starts(100) if each.commit in {trial.commit for trial in trials}]
    assert sorted(set(trained)) == sorted(trial.experiment for trial in trials), "nothing but the trials"


def test_code_that_was_trained_before_is_known_and_not_trained_again(harness: LabHarness) -> None:
    edits = [{"path": "train.py", "search": "SCALAR_LR = 0.5 ", "replace": "SCALAR_LR = 0.2 "}]
    with runner_lock(harness.state):
        commit = harness.lab.propose_patch("A smaller rate is steadier.", "bob", edits=edits).commit
        (before,) = harness.lab.launch_training(commit, "bob").experiments
    drive(harness)
    id = launch(harness, 2, {"SCALAR_LR": Range(choices=["0.2", "0.3"])}, sampler="grid")
    drive(harness)
    one, two = harness.ledger.trials(id)
    assert (one.commit, one.experiment) == (commit, before) and two.experiment != before
    assert sum(each.commit == commit for each in harness.ledger.starts(100)) == 1


def test_what_fails_is_told_and_a_sweep_without_a_result_stops(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "HOPELESS", 2)
    edits = [{"path": "train.py", "search": "SOFTCAP = 15.0", "replace": "FAILS = 1\nSOFTCAP = 15.0"}]
    with runner_lock(harness.state):
        commit = harness.lab.propose_patch("This one fails by all means.", "ada", edits=edits).commit
        id = harness.lab.launch_sweep(commit, "ada", {"SOFTCAP": Range(low=1, high=30)}, 40, 2, None, "random").id
    drive(harness)
    swept = line(harness, id)
    assert swept.state == "stopped" and swept.best is None and "None of its first" in swept.note
    assert 2 <= swept.ended == swept.failed <= 6


def test_a_sweep_that_is_cancelled_in_the_middle_starts_nothing_more(harness: LabHarness) -> None:
    id = launch(harness, 30, {"WEIGHT_DECAY": Range(low=0.1, high=0.9)}, parallel=4, sampler="random")
    killed(harness, 8, after=True)
    assert 0 < line(harness, id).running <= 4
    with pytest.raises(LabError, match="launched by ada"):
        harness.lab.cancel("bob", [id])
    with runner_lock(harness.state):
        assert harness.lab.cancel("ada", [id]).states[id] == "cancelled"
        assert "had ended" in harness.lab.cancel("ada", [id]).note
    count = len(harness.ledger.trials(id))
    drive(harness)
    assert len(harness.ledger.trials(id)) == count < 30 and line(harness, id).state == "cancelled"
    assert harness.ledger.open_experiments() == [] and harness.lab.status().budget.reserved_s == 0


REFUSED: list[tuple[dict[str, Range], int, str]] = [
    ({"MATRIX_RL": Range(low=0.1, high=1)}, 8, "Did you mean MATRIX_LR"),
    ({"DEPTH": Range(low=1, high=4)}, 8, "assigned 3 times"),
    ({"ADAM_BETAS": Range(low=0.1, high=1)}, 8, "not a plain number"),
    ({"MATRIX_LR": Range(low=1, high=0.1)}, 8, "low must be less"),
    ({"MATRIX_LR": Range(low=0, high=0.1, log=True)}, 8, "above 0"),
    ({"MATRIX_LR": Range(low=float("nan"), high=0.1)}, 8, "low must be less"),
    ({"MATRIX_LR": Range(low=0.1)}, 8, "needs low and high"),
    ({"MATRIX_LR": Range(low=0.1, high=0.2, choices=["1", "2"])}, 8, "choices, or low and high"),
    ({"MATRIX_LR": Range(choices=["0.1", "0.1"])}, 8, "two different"),
    ({"MATRIX_LR": Range(choices=["0.1", "1 +"])}, 8, "no plain number"),
    ({"MATRIX_LR": Range(choices=["0.1", "exit()"])}, 8, "no plain number"),
    ({"PRINT_EVERY": Range(low=1.5, high=3)}, 8, "must be whole"),
    ({"WINDOW_PATTERN": Range(low=1, high=3)}, 8, "assigned 3 times"),
    ({}, 8, "1 to 16 constants"),
    (RATE, 0, "1 to 1000"),
    (RATE, 100_000, "1 to 1000"),
]


def test_a_sweep_that_makes_no_sense_is_refused(harness: LabHarness) -> None:
    for parameters, trials, words in REFUSED:
        with pytest.raises(LabError, match=words):
            launch(harness, trials, parameters)
    assert harness.ledger.open_sweeps() == []
