"""A champion whose replicates move over time is told, and one that only varies is not."""

import random
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.gate.drift import Drift, chart
from autoresearch_mcp.server.models import Score
from tests.server.measured import MeasuredLab


def noise(count: int, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [1.5 + rng.gauss(0, 0.01) for _ in range(count)]


def replicates(values: list[float], steps: list[int] | None = None) -> list[Score]:
    return [
        Score(
            experiment=f"e{n}",
            commit="c",
            conditions="k",
            device="cpu",
            state="finished",
            val_bpb=value,
            started=True,
            finished_at=n + 1.0,
            steps=steps[n] if steps else None,
        )
        for n, value in enumerate(values)
    ]


def test_a_steady_machine_alarms_once_in_570_replicates() -> None:
    alarms = sum(place >= 1 for place in chart(noise(60_000)))
    assert 60_000 / alarms == pytest.approx(570, rel=0.15)


def test_what_a_steady_lab_shows_first_alarms_no_sooner() -> None:
    early = sum(max(chart(noise(16, seed))) >= 1 for seed in range(2000))
    assert early / 2000 < 16 / 570 + 0.01


@pytest.mark.parametrize(("shift", "at_least"), [(1.0, 0.25), (2.0, 0.8), (3.0, 0.95)])
def test_most_shifts_are_noticed_within_16_replicates(shift: float, at_least: float) -> None:
    moved = [[*noise(16, n), *(value + 0.01 * shift * (-1) ** n for value in noise(16, 1000 + n))] for n in range(200)]
    noticed = sum(max(chart(values)[16:]) >= 1 for values in moved)
    assert noticed / 200 >= at_least


def test_equal_and_coarse_metrics_are_no_drift() -> None:
    assert max(chart([0.5] * 40)) == 0
    coarse = random.Random(2).choices([0.50, 0.51, 0.52], k=40)
    assert max(chart(coarse)) < 1


def test_the_status_warns_until_the_gate_compares_on_one_side_of_a_shift(measured: MeasuredLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab, champion = measured.lab, measured.lab.champion()
    measured.measure(champion, noise(2))
    assert lab.status().drift is None
    measured.measure(champion, noise(16)[2:])
    before = lab.status()
    assert before.drift is not None and before.drift < 1 and not any("unsteady" in text for text in before.warnings)
    slower = [value + 0.05 for value in noise(24, 7)]
    measured.measure(champion, slower[:4])
    during = lab.status()
    assert during.drift is not None and during.drift >= 1
    (warning,) = [text for text in during.warnings if "unsteady" in text]
    assert "fewer slots" in warning and "longer budget" in warning
    assert _shown(measured.root, capsys).count("unsteady") == 2
    measured.measure(champion, slower[4:])
    after = lab.status()
    assert after.drift is not None and after.drift < 1 and not any("unsteady" in text for text in after.warnings)
    assert "steady: drift at" in _shown(measured.root, capsys)


def test_only_the_labs_own_replicates_are_watched(measured: MeasuredLab) -> None:
    champion = measured.lab.champion()
    measured.measure(champion, noise(16))
    measured.measure(champion, [value + 0.05 for value in noise(8, 7)], by_lab=False)
    status = measured.lab.status()
    assert status.drift is not None and status.drift < 1


def test_the_steps_tell_whether_it_is_the_machines_speed() -> None:
    values = [*noise(16), *(value + 0.05 for value in noise(8, 7))]
    steps = [round(1000 - 4000 * (value - 1.5)) for value in values]
    drift = Drift.of(replicates(values, steps))
    assert drift is not None and drift.steps_share == pytest.approx(1, abs=0.01)
    assert drift.steps_sd is not None and f"{drift.steps_sd:.1%} in steps" in drift.warning and "100% of the variance" in drift.warning
    silent = Drift.of(replicates(values))
    assert silent is not None and silent.steps_sd is None and silent.unsteady and "steps" not in silent.warning


def _shown(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(["status", str(root)]) == 0
    return capsys.readouterr().out
