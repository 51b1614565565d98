"""Sweeps: constants of a commit are tuned by ordinary trials, whatever happens to the runner, the budget or a trial."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.answers import Range, SweepLine
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, Sampler, SweepParameter, new_id
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner import sampling, sweeps
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.sampling import ask
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


def test_every_trial_is_a_proposal_and_an_experiment_of_its_own(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    id = launch(harness, 3, RATE | {"PRINT_EVERY": Range(low=1, high=300)})
    started = list[Path]()
    with monkeypatch.context() as watched:
        watched.setattr("autoresearch_mcp.server.lab.core.ensure_runner", lambda root, state: started.append(root))
        assert harness.lab.states([id]) == [] and started == [harness.root], "who waits for a sweep wakes the runner between two trials"
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


def test_a_sampler_that_fails_ends_its_sweep_and_keeps_no_other_waiting(harness: LabHarness) -> None:
    fine = launch(harness, 1, {"WEIGHT_DECAY": Range(low=0.2, high=0.3)})
    sweep = harness.ledger.sweep(fine)
    assert sweep is not None
    endless = SweepParameter(path="train.py", now="0.2", low=-1e308, high=1e308)
    broken = sweep.model_copy(update={"id": new_id("s"), "created_at": 0.0, "parameters": {"WEIGHT_DECAY": endless}})
    harness.ledger.add_sweep(broken, None, "")
    drive(harness)
    assert line(harness, broken.id).state == "stopped" and "No next trial could be chosen" in line(harness, broken.id).note
    assert (line(harness, fine).state, line(harness, fine).ended) == ("done", 1)


def test_slots_are_filled_while_a_sampler_thinks(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = [{"path": "train.py", "search": "SCALAR_LR = 0.5 ", "replace": "SCALAR_LR = 0.4 "}]
    with runner_lock(harness.state):
        other = harness.lab.propose_patch("A somewhat smaller rate is steadier.", "bob", edits=edits).commit
        (training,) = harness.lab.launch_training(other, "bob").experiments
    id, ended, asked, move = launch(harness, 1, sampler="random"), threading.Event(), list[bool](), harness.ledger.move

    def moved(id: str, *args: Any, **changes: Any) -> Experiment | None:
        experiment = move(id, *args, **changes)
        if experiment is not None and experiment.id == training and experiment.terminal:
            ended.set()
        return experiment

    def thinking(*args: Any) -> Any:
        asked.append(ended.wait(20))
        return ask(*args)

    monkeypatch.setattr(harness.ledger, "move", moved)
    monkeypatch.setattr(sampling, "ask", thinking)
    drive(harness)
    assert asked == [True] and line(harness, id).ended == 1


def test_a_trial_that_waits_for_the_budget_is_proposed_once(harness: LabHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    id, values = launch(harness, 2, {"SCALAR_LR": Range(low=0.6, high=0.9)}), iter(["0.61", "0.62", "0.63", "0.64"])
    monkeypatch.setattr(sampling, "ask", lambda *_: ({"SCALAR_LR": next(values)}, {}))
    settings, ledger = lab_settings.load(harness.root), harness.ledger
    driver = sweeps.Sweeps(lambda: settings, ledger, Repo(harness.root))

    async def advance() -> None:
        await driver.advance()
        await driver.wait()
        with runner_lock(harness.state):
            harness.lab.write_memory("finding", "Something changed in the ledger.", "bob")

    def poor(*args: Any, **more: Any) -> None:
        raise LabError("Too little is left.", "over_budget")

    anyio.run(advance)
    with monkeypatch.context() as short:
        short.setattr(ledger, "enqueue", poor)
        anyio.run(advance)
        anyio.run(advance)
    assert (line(harness, id).state, len(ledger.trials(id))) == ("open", 1)
    anyio.run(advance)
    assert [trial.values["SCALAR_LR"] for trial in ledger.trials(id)] == ["0.61", "0.62"]
    assert sum(id in each.tags for _, each in ledger.proposals_after(0, -1)) == 2
    drive(harness)


REFUSED: list[tuple[dict[str, Range], int, str]] = [
    ({"MATRIX_RL": Range(low=0.1, high=1)}, 8, "Did you mean MATRIX_LR"),
    ({"DEPTH": Range(low=1, high=4)}, 8, "assigned 3 times"),
    ({"ADAM_BETAS": Range(low=0.1, high=1)}, 8, "not a plain number"),
    ({"MATRIX_LR": Range(low=1, high=0.1)}, 8, "low must be less"),
    ({"MATRIX_LR": Range(low=0, high=0.1, log=True)}, 8, "above 0"),
    ({"MATRIX_LR": Range(low=float("nan"), high=0.1)}, 8, "low must be less"),
    ({"MATRIX_LR": Range(low=-1e308, high=1e308)}, 8, "by a finite number"),
    ({"MATRIX_LR": Range(low=0.1)}, 8, "needs low and high"),
    ({"MATRIX_LR": Range(low=0.1, high=0.2, choices=["1", "2"])}, 8, "choices, or low and high"),
    ({"MATRIX_LR": Range(choices=["0.1", "0.1"])}, 8, "two different"),
    ({"MATRIX_LR": Range(choices=["0.1", "1 +"])}, 8, "no plain number"),
    ({"MATRIX_LR": Range(choices=["0.1", "exit()"])}, 8, "no plain number"),
    ({"MATRIX_LR": Range(choices=["0.1", "0.2\nimport os"])}, 8, "no plain number"),
    ({"MATRIX_LR": Range(choices=["0.1", "0.2)"])}, 8, "no plain number"),
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
