"""A running training is compared with the champion's at the same share of the budget."""

import json
import random
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.types import CallToolResult

from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.pace import FEWEST_LIKE_IT, Paces, default_chance, settings_of, whole_windows, windows_of
from autoresearch_mcp.server.runs import LiveCurve
from autoresearch_mcp.trainer import protocol
from autoresearch_mcp.trainer.records import Curve
from tests.server.measured import MeasuredLab

SPEC = {"profile": "tiny", "device": "cpu", "budget_s": 1.0}
RNG = random.Random(7)


def falling(worse: float = 0.0) -> list[float | None]:
    """A curve that falls from 5 to 3, with noise of 0.02."""
    return [5 - 0.1 * window + worse + RNG.gauss(0, 0.02) for window in range(20)]


def keep(measured: MeasuredLab, commit: str, metric: float, worse: float = 0.0, spec: dict[str, object] = SPEC) -> None:
    (id,) = measured.measure(commit, [metric])
    measured.ledger.keep_curve(id, settings_of(spec), falling(worse))


def running(measured: MeasuredLab, commit: str, losses: list[float | None], spec: dict[str, object] = SPEC) -> Experiment:
    """An experiment in the middle of its budget, with what its launcher has written so far."""
    e = Experiment(
        id=new_id("e"), commit=commit, base="b", author="ada", hypothesis="h", seed=1, device="cpu", created_at=1.0, reserved_s=1.0
    )
    measured.ledger.enqueue([e], 1e9, None, "r")
    started = measured.ledger.move(e.id, ["queued"], state="running", attempt=1, started_at=1.0)
    assert started is not None
    directory = measured.root / ".autoresearch" / "runs" / e.id / "1"
    directory.mkdir(parents=True)
    protocol.write_json(directory / protocol.SPEC, dict(spec))
    write_curve(directory / protocol.CURVE, losses)
    return started


def write_curve(path: Path, losses: list[float | None]) -> None:
    """Two reports a window, and the first of the window after them: only then is the last one whole."""
    rows = [(w / 20 + at, loss) for w, loss in enumerate(losses) for at in (0.0, 0.03)] + [(len(losses) / 20, losses[-1])]
    path.write_text("".join(json.dumps({"t": 0, "share": share, "loss": loss}) + "\n" for share, loss in rows), encoding="utf-8")


def test_a_curve_that_starts_far_worse_is_told_as_such_wherever_a_running_training_is_shown(measured: MeasuredLab) -> None:
    lab = measured.lab
    champion = lab.champion()
    for _ in range(8):
        keep(measured, champion, 1.5)
    e = running(measured, measured.propose("DEPTH = ", "DEPTH = 1 + "), falling(0.2)[:7])
    (line,) = lab.states([e.id])
    assert (
        line.pace is not None
        and line.pace.startswith("at 35% its loss is ")
        and "sd worse than the champion's; chance to beat it" in line.pace
    )
    assert lab.get_experiment(e.id).pace == line.pace
    assert 5 < float(line.pace.split("its loss is ")[1].split()[0]) < 20


def test_who_waits_for_a_training_is_told_its_pace(measured: MeasuredLab) -> None:
    for _ in range(8):
        keep(measured, measured.lab.champion(), 1.5)
    e = running(measured, measured.propose("DEPTH = ", "DEPTH = 1 + "), falling(0.2)[:7])

    async def wait() -> CallToolResult:
        async with Client(build_server(measured.lab)) as client:
            with anyio.fail_after(20):
                return await client.call_tool("wait_for_experiments", {"ids": [e.id], "timeout_s": 1})

    answer = anyio.run(wait).structured_content or {}
    assert f"{e.id} running (at 35% its loss is" in answer["note"] and not answer["done"]


@pytest.mark.parametrize(
    ("champions", "losses", "spec"),
    [(3, falling(0.2)[:7], SPEC), (8, falling(0.2)[:0] or [4.0], SPEC | {"budget_s": 2.0}), (8, [None], SPEC)],
    ids=["too few runs of the champion", "another budget", "nothing reported"],
)
def test_what_can_not_be_compared_gets_no_hint(
    measured: MeasuredLab, champions: int, losses: list[float | None], spec: dict[str, object]
) -> None:
    for _ in range(champions):
        keep(measured, measured.lab.champion(), 1.5)
    e = running(measured, measured.propose("DEPTH = ", "DEPTH = 1 + "), losses, spec)
    assert measured.lab.states([e.id])[0].pace is None


def test_the_chance_to_win_is_the_labs_own_record_once_there_is_enough_of_it(measured: MeasuredLab) -> None:
    champion = measured.lab.champion()
    for _ in range(8):
        keep(measured, champion, 1.5)
    e = running(measured, measured.propose("DEPTH = ", "DEPTH = 1 + "), falling(0.2)[:7])
    paces = Paces(measured.root / ".autoresearch", measured.ledger, lambda: champion)
    before = paces.of(e)
    assert before is not None and before.like_it == 0 and before.chance == default_chance(0.35, before.sd_worse)
    for n in range(FEWEST_LIKE_IT):
        keep(measured, f"other{n}", 1.4, worse=0.5)  # they began worse still, and all of them won
    after = paces.of(e)
    assert after is not None and after.like_it == FEWEST_LIKE_IT and after.chance > 0.9
    assert "from 10 trainings of this lab" in str(after)


def test_the_default_chance_falls_with_the_distance_and_is_surer_late_in_the_budget() -> None:
    assert default_chance(0.3, 0.0) == 0.5
    assert default_chance(0.3, 3.0) == pytest.approx(0.042, abs=0.002)
    assert default_chance(0.8, 3.0) < 0.001 < default_chance(0.3, 3.0) < default_chance(0.3, 1.0)
    assert default_chance(0.3, -2.0) == pytest.approx(1 - default_chance(0.3, 2.0))


def test_a_curve_that_grows_is_read_as_the_launcher_digests_it(tmp_path: Path) -> None:
    path = tmp_path / protocol.CURVE
    curve, live = Curve(path), LiveCurve(path)
    for step in range(400):
        curve.add({"share": step / 500, "loss": 5 - step / 100 if step != 70 else 1e12, "step": float(step)}, 1.0)
        if step % 90 == 0:
            live.digest()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"share": 0.9, "loss": 1')  # a line that is being written
    assert live.digest() == [pytest.approx(point, abs=1e-4) for point in curve.digest()]
    curve.close()
    assert live.share == pytest.approx(0.798)
    assert len(whole_windows(live.digest(), live.share)) == 15
    assert LiveCurve(tmp_path / "none").digest() == []


def test_windows_without_a_report_have_no_loss() -> None:
    assert windows_of([(0.01, 4.0), (0.03, 2.0), (1.0, 1.0)]) == [3.0, *[None] * 18, 1.0]
    assert whole_windows([(0.01, 4.0)], 0.04) == []
