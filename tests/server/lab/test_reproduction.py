"""An experiment trained again with its seed: compared with what it was, and evidence for nothing."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.lab.reproduction import Reproduction
from autoresearch_mcp.server.models import Experiment, Failure
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.harness import LabHarness
from tests.trainings import QUICK

OUTCOME = {"hashes": {"code": "c", "weights": "w1"}, "versions": {"torch": "2.12"}, "device_name": "a", "steps": 10}


def experiment(val_bpb: float | None, **changes: Any) -> Experiment:
    base: dict[str, Any] = {"id": "e-1", "commit": "c", "base": "b", "author": "ada", "hypothesis": "h", "seed": 7, "state": "finished"}
    return Experiment(**(base | {"device": "cpu", "created_at": 1.0, "reserved_s": 0.0, "val_bpb": val_bpb, "details": OUTCOME} | changes))


@pytest.mark.parametrize(
    ("again", "noise", "holds", "words"),
    [
        (1.505, 0.005, True, "1.0 of the noise between seeds (0.0050)"),
        (1.52, 0.005, False, "Not reproduced."),
        (1.52, None, None, "can't be judged"),
        (1.5, None, True, "difference +0.000000"),
    ],
)
def test_the_difference_is_judged_against_the_noise(again: float, noise: float | None, holds: bool | None, words: str) -> None:
    reproduction = Reproduction(experiment(1.5), experiment(again), noise)
    assert reproduction.holds is holds and words in "\n".join(reproduction.lines())


def test_what_differs_is_named() -> None:
    details = {**OUTCOME, "hashes": {"code": "c", "weights": "w2"}, "versions": {"torch": "2.13"}, "device_name": "b", "steps": 11}
    lines = Reproduction(experiment(1.5), experiment(1.5, details=details), 0.01).lines()
    assert "steps 10 -> 11" in lines
    assert {line for line in lines if line.startswith("differs")} == {
        "differs: versions.torch 2.12 -> 2.13",
        "differs: device_name a -> b",
    }
    same = Reproduction(experiment(1.5), experiment(1.5), 0.01).lines()
    assert any("bit for bit" in line for line in same) and any("nothing else differs" in line for line in same)


def test_a_failure_is_reproduced_by_the_same_failure() -> None:
    crashed = experiment(None, state="crashed", failure=Failure(kind="oom", message="no memory"))
    assert Reproduction(crashed, crashed, None).holds
    assert Reproduction(crashed, experiment(1.5), None).holds is False


@pytest.fixture
def harness(make_lab: Callable[..., Path]) -> Iterator[LabHarness]:
    harness = LabHarness(make_lab())
    yield harness
    harness.close()


def test_a_reproduction_has_the_same_seed_and_counts_neither_for_the_gate_nor_for_the_noise(harness: LabHarness) -> None:
    with runner_lock(harness.state):
        (id,) = harness.launch()
    harness.drive()
    harness.ledger.keep_evidence(id, "landlock-7", 1.0, None)  # the launcher of the test scores nothing
    with runner_lock(harness.state):
        again = harness.lab.reproduce(id, "owner")
        assert harness.lab.reproduction(again) is None and harness.lab.status().budget.reserved_s > 0
    harness.drive()
    reproduction = harness.lab.reproduction(again)
    assert (
        reproduction is not None
        and reproduction.again.seed == reproduction.original.seed
        and reproduction.again.commit == reproduction.original.commit
    )
    status = harness.lab.status()
    assert status.champion.n == 1 and status.noise_sd is None and [row.n for row in status.leaderboard] == [1]
    assert status.counts == {"finished": 2} and status.budget.spent_s > 0
    assert [score.experiment for score in harness.ledger.scores(status.champion.commit)] == [id]
    assert harness.lab.query_experiments(ExperimentQuery(tag="reproduction", columns=["reproduces"])).rows == [
        {"id": again, "reproduces": id}
    ]


def test_what_cannot_be_reproduced_is_refused_with_the_reason(make_lab: Callable[..., Path]) -> None:
    harness = LabHarness(make_lab("poor", {"device_hours = 8.0 ": "device_hours = 0.04"}))
    with runner_lock(harness.state):
        (id,) = harness.launch()
        with pytest.raises(LabError, match="has not ended"):
            harness.lab.reproduce(id, "owner")
        harness.ledger.move(id, ["queued"], state="finished", started_at=1.0, val_bpb=1.5, cost_s=100.0)
        with pytest.raises(LabError, match="budget"):
            harness.lab.reproduce(id, "owner")
        with pytest.raises(LabError, match="reproduces no other"):
            harness.lab.reproduction(id)
    harness.close()


def test_the_command_trains_a_real_experiment_again_and_compares(make_lab: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    harness = LabHarness(make_lab(train=QUICK))
    with runner_lock(harness.state):
        (id,) = harness.launch()
    harness.drive(command=(sys.executable, "-m", "autoresearch_mcp.trainer.launch"))
    assert cli.main(["reproduce", id, str(harness.root)]) == 0
    out = capsys.readouterr().out
    again = out.split(" ")[0]
    assert f"{id} val_bpb" in out and f"{again} val_bpb" in out and "difference" in out and "nothing else differs" in out
    assert cli.main(["reproduce", again, str(harness.root)]) == 0  # comes back to it, and trains nothing
    assert "difference" in capsys.readouterr().out and harness.lab.status().counts == {"finished": 2}
    hidden = [score.test_bpb for score in harness.ledger.scores(harness.lab.status().champion.commit)]
    assert len(hidden) == 1 and hidden[0] is not None
    for result in harness.state.rglob("result.json"):
        assert str(hidden[0]) not in result.read_text(encoding="utf-8")
    harness.close()
