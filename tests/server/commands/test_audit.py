"""`audit` tells a lab's noise, its drift, and what the gate makes of the champion against itself."""

import itertools
import json
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.gate.drift import explained_by_steps
from autoresearch_mcp.server.lab.audit import NoiseReport, autocorrelation, shared_by_neighbours
from autoresearch_mcp.server.models import Score
from tests.server.harness import LabHarness
from tests.server.measured import MeasuredLab
from tests.waiting import until

CURVING = (sys.executable, str(Path(__file__).parents[1] / "runner" / "curving_launcher.py"))


def score(number: int, metric: float, steps: int | None = None) -> Score:
    return Score(
        experiment=f"e{number}",
        commit="c",
        conditions="k",
        device="cpu",
        state="finished",
        val_bpb=metric,
        started=True,
        started_at=float(number),
        finished_at=number + 1.0,
        steps=steps,
    )


def steady(count: int, seed: int = 3) -> list[float]:
    rng = random.Random(seed)
    return [1.5 + rng.gauss(0, 0.01) for _ in range(count)]


def drifting(count: int) -> list[float]:
    return list(itertools.accumulate(steady(count, 5), lambda before, value: before + (value - 1.5)))


def audited(root: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["audit", str(root), "--replays", "60", *arguments]) == 0
    return capsys.readouterr().out


def test_noise_has_an_interval_that_holds_it() -> None:
    noise = NoiseReport.of([score(n, value) for n, value in enumerate(steady(40))])
    assert noise.runs == 40 and noise.sd_low < 0.01 < noise.sd_high and noise.sd_low < noise.sd < noise.sd_high
    assert noise.steps_share is None


def test_drift_is_seen_in_the_order_of_starts_and_not_without_it() -> None:
    drift, none = drifting(60), steady(60)
    assert autocorrelation(drift, 1) > 0.7 > 0.3 > abs(autocorrelation(none, 1))
    assert shared_by_neighbours(drift) > 0.7 > 0.3 > shared_by_neighbours(none)
    shuffled = random.Random(1).sample(drift, len(drift))
    assert shared_by_neighbours(shuffled) < 0.4
    assert autocorrelation([1.5, 1.5, 1.5], 1) == shared_by_neighbours([1.5, 1.5]) == 0


def test_what_the_steps_explain_is_told() -> None:
    rng = random.Random(2)
    steps = [rng.randrange(100, 140) for _ in range(40)]
    slower = [score(n, 1.5 - (s - 120) * 1e-3, s) for n, s in enumerate(steps)]
    assert explained_by_steps(slower) == pytest.approx(1.0, abs=0.01)
    assert explained_by_steps([score(n, value, rng.randrange(100, 140)) for n, value in enumerate(steady(60))]) == pytest.approx(
        0, abs=0.15
    )
    assert explained_by_steps([score(n, value, 100) for n, value in enumerate(steady(5))]) is None


def test_a_lab_without_enough_replicates_is_told_how_many_to_train(measured: MeasuredLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--runs 24" in audited(measured.root, capsys=capsys)
    measured.measure(measured.lab.champion(), [*steady(10)])
    text = audited(measured.root, "--no-train", capsys=capsys)
    assert "noise     sd 0.0" in text and "6 more replicates are needed to ask it: --runs 6" in text


def test_the_gate_is_asked_about_the_champion_against_itself(measured: MeasuredLab, capsys: pytest.CaptureFixture[str]) -> None:
    measured.measure(measured.lab.champion(), [*steady(32)])
    found = json.loads(audited(measured.root, "--json", capsys=capsys))
    assert found["runs"] == 32 and found["replays"] == 60
    assert found["false"]["in turn"] <= 0.25
    assert found["power"]["3.0"] >= 0.9 > found["power"]["0.5"]
    text = audited(measured.root, capsys=capsys)
    assert "promoted the champion over itself in" in text and "of gains of 2 sd" in text


def test_it_trains_the_champion_through_the_labs_queue(
    make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    harness = LabHarness(make_lab("audited", {"slots = 0": "slots = 4"}))
    monkeypatch.setattr("autoresearch_mcp.server.lab.core.ensure_runner", lambda root, state: True)  # this test is the runner
    asked = threading.Thread(target=cli.main, args=(["audit", str(harness.root), "--replays", "60", "--runs", "18"],))
    asked.start()
    until(lambda: harness.ledger.counts().get("queued") == 18)
    harness.drive(command=CURVING)
    asked.join()
    text = capsys.readouterr().out
    assert "18 replicates that count" in text and "promoted the champion over itself" in text
    assert harness.lab.status().counts == {"finished": 18}
    harness.close()


@pytest.mark.parametrize("runs", ["0", "-3", "201", "many"])
def test_a_number_of_runs_that_makes_no_sense_is_refused(measured: MeasuredLab, runs: str) -> None:
    with pytest.raises(SystemExit):
        cli.main(["audit", str(measured.root), "--runs", runs])


def test_runs_that_the_budget_does_not_cover_leave_nothing_queued(measured: MeasuredLab, capsys: pytest.CaptureFixture[str]) -> None:
    toml = measured.root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("device_hours = 8.0", "device_hours = 0.05"), encoding="utf-8")
    assert cli.main(["audit", str(measured.root), "--runs", "200"]) == 2
    assert "budget" in capsys.readouterr().err
    assert measured.ledger.open_experiments() == []
