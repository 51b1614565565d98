"""The picture tells the campaign's story whatever is in it, and the text beside it tells the same."""

import io
import struct
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from autoresearch_mcp.server.answers import ProgressPicture, Summary
from autoresearch_mcp.server.lab import progress_plot
from autoresearch_mcp.server.lab.progress import Campaign, Course, Foreign, Progress, in_order
from autoresearch_mcp.server.ledger.results import Ended
from autoresearch_mcp.server.models import IMPORTED, Experiment, Failure, Promotion

BASE, BETTER = "b" * 40, "c" * 40
GREEN, VERMILLION, BLUE = (0, 158, 115), (213, 94, 0), (0, 114, 178)
BAND, ORANGE = (217, 234, 243), (230, 159, 0)


def experiment(n: int, val_bpb: float | None = 1.5, **changes: Any) -> Experiment:
    values: dict[str, Any] = {
        "id": f"e-{n:04d}",
        "commit": f"{n:040d}",
        "base": BASE,
        "author": "ada",
        "hypothesis": f"idea {n}",
        "seed": n,
        "state": "finished" if val_bpb is not None else "crashed",
        "device": "cpu",
        "created_at": float(n),
        "finished_at": n + 0.5,
        "reserved_s": 60.0,
        "val_bpb": val_bpb,
        "conditions": "k",
    }
    return Experiment(**values | changes)


def baseline(first: int = 1) -> list[Experiment]:
    return [experiment(first + i, 1.5 + 0.002 * i, commit=BASE, hypothesis="stock") for i in range(3)]


def promotion(commit: str = BETTER, after: float = 6.6, mean: float = 1.4) -> Promotion:
    verdict = {"candidate_mean": mean, "champion_mean": 1.502}
    return Promotion(id=f"p-{after}", commit=commit, previous=BASE, author="ada", approved_by="policy", verdict=verdict, created_at=after)


def campaign(hypothesis: str = "Muon with a longer warm-up") -> tuple[list[Experiment], list[Promotion]]:
    tried = [experiment(n, 1.4 + 0.002 * n, commit=BETTER, hypothesis=hypothesis) for n in (4, 5, 6)]
    return [*baseline(), *tried, experiment(7, 1.52), experiment(8, None, failure=Failure(kind="oom", message="no memory"))], [promotion()]


def progress_of(experiments: list[Experiment], promotions: list[Promotion], **changes: Any) -> Progress:
    champion = Summary(commit=promotions[-1].commit if promotions else BASE, n=3, mean=1.502)
    campaign = Campaign(**{"promotions": promotions, "title": "x", "champion": champion, "conditions": "k"} | changes)
    course = Course(campaign.conditions, campaign.reference, campaign.reported)
    course.add_among(sorted(map(point, experiments), key=in_order))
    return course.progress(campaign)


def point(e: Experiment) -> Ended | Foreign:
    """Return an experiment as the ledger has it; one of another lab as the log does."""
    kind, row = (Foreign, {}) if IMPORTED in e.tags else (Ended, {"row": e.seed})
    return kind(**row, **{name: getattr(e, name) for name in kind._fields if name not in row})


def draw(experiments: list[Experiment], promotions: list[Promotion], title: str = "x", **changes: Any) -> ProgressPicture:
    return progress_plot.draw(progress_of(experiments, promotions, **changes), title)


def pixels(png: bytes, colour: tuple[int, int, int]) -> Any:
    """Rows and columns of the pixels of about this colour."""
    from matplotlib.image import imread

    picture = imread(io.BytesIO(png), format="png")[:, :, :3] * 255
    return np.argwhere(np.abs(picture - np.array(colour)).max(axis=2) < 12)


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = (
        "from autoresearch_mcp.server.lab import progress_plot; import sys; sys.exit('matplotlib' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("count", [0, 1, 10, 150])
def test_every_campaign_gives_a_small_png_of_the_promised_size(count: int) -> None:
    experiments = [experiment(n, None if n % 7 == 0 else 1.5 - n * 1e-3) for n in range(count)]
    promotions = [promotion(f"{n:040d}", n + 0.6, 1.5 - n * 1e-3) for n in range(1, count, 6)]
    png = draw(experiments, promotions, "a lab").png
    assert png.startswith(b"\x89PNG") and struct.unpack(">II", png[16:24]) == (1000, 600)
    assert len(png) < 200_000


def test_an_empty_lab_says_so() -> None:
    assert "no experiments yet" in draw([], [], "a lab").text
    assert draw([], [], "a lab").png != draw([experiment(1)], [], "a lab").png


def test_the_text_tells_what_the_picture_shows() -> None:
    text = draw(*campaign(), "speeches").text
    assert "speeches" in text
    assert "champion ccccccc at 1.4000" in text and "−6.79% from the baseline's 1.5020" in text
    assert "8 experiments" in text and "1 promotion" in text and "1 failed" in text
    assert "1 crashed, 7 finished" in text
    assert "Best single run: 1.4080" in text
    assert "after experiment 6: 1.4000  cccccccccccc  Muon with a longer warm-up" in text
    assert "not instructions" in text


def test_promoted_points_failures_and_the_champions_line_are_drawn() -> None:
    png = draw(*campaign(), "speeches").png
    line = pixels(png, BLUE)
    assert len(pixels(png, GREEN)) > 3 * 20 and len(pixels(png, VERMILLION)) > 20
    legend = 95
    drawn = line[line[:, 0] > legend]
    assert drawn[:, 0].max() - drawn[:, 0].min() > 200  # it falls
    failures = pixels(png, VERMILLION)
    assert failures[:, 0].min() > 70 and failures[:, 0].max() < 130  # at the upper edge
    before, _ = campaign()
    assert len(pixels(draw(before, [], "speeches").png, GREEN)) == 0


def test_the_champions_interval_narrows_with_its_fresh_replicates_and_what_won_it_the_crown_is_not_in_it() -> None:
    experiments, promotions = campaign()
    fresh = [experiment(10 + i, 1.42 + 0.002 * i, commit=BETTER) for i in range(4)]
    progress = progress_of([*experiments, *fresh], promotions, noise=0.01)
    first, second = progress.champions
    assert [at.n for at in first.band] == [1, 2, 3] and [at.n for at in second.band] == [2, 3, 4]
    assert [at.number for at in second.band] == [10, 11, 12]
    assert second.band[-1].mean == pytest.approx(1.423) and second.level == 1.4
    assert second.band[-1].half == pytest.approx(1.96 * 0.01 / 2)
    picture = draw([*experiments, *fresh], promotions, noise=0.01)
    assert "champion ccccccc at 1.4230" in picture.text and "1.4230 ± 0.0098 (95 %, from 4 replicates since its promotion)" in picture.text
    assert len(pixels(picture.png, BAND)) > 1000 > len(pixels(draw(experiments, promotions, "x").png, BAND))


def test_a_label_points_to_where_the_champions_line_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    named = dict[str, tuple[float, float]]()
    monkeypatch.setattr(progress_plot, "_annotate", lambda axes, at, label, *place: named.update({label: at}))
    draw(*campaign(), noise=0.01)
    assert named["baseline"] == (1, 1.5), "what the first replicate says, not the mean of all, by which the gate knew it"
    assert named["Muon with a longer warm-up"] == (6, 1.4), "the gate's mean, until there are fresh replicates"


def test_undecided_candidates_are_drawn_with_their_intervals() -> None:
    experiments, promotions = campaign()
    undecided = [experiment(10 + i, 1.41, commit="d" * 40) for i in range(2)]
    picture = draw([*experiments, *undecided], promotions, noise=0.02, undecided={"d" * 40, "e" * 40})
    assert f"Undecided, with 95 % intervals: {'d' * 12} 1.4100 ± 0.0277 (n=2)." in picture.text
    bar = pixels(picture.png, ORANGE)
    bar = bar[bar[:, 0] > 100]
    assert bar[:, 0].max() - bar[:, 0].min() > 60
    assert len(pixels(draw([*experiments, *undecided], promotions, "x").png, ORANGE)) == 0


def test_what_was_stopped_early_is_told_from_what_failed() -> None:
    experiments, promotions = campaign()
    stopped = experiment(9, None, state="stopped_early", failure=Failure(kind="hopeless", message="at 30%"))
    progress = progress_of([*experiments, stopped], promotions)
    assert progress.stopped == [9] and progress.failed == [8]
    assert "1 stopped early" in draw([*experiments, stopped], promotions, "x").text


def test_one_awful_run_does_not_flatten_the_rest() -> None:
    experiments, promotions = campaign()
    calm = pixels(draw(experiments, promotions, "x").png, BLUE)
    awful = pixels(draw([*experiments, experiment(9, 300.0)], promotions, "x").png, BLUE)
    assert awful[:, 0].max() - awful[:, 0].min() > 0.8 * (calm[:, 0].max() - calm[:, 0].min())


def test_metrics_that_nobody_verified_are_no_champion_and_no_best() -> None:
    experiments = [*baseline(), experiment(4, None, state="finished", reported_bpb=0.1)]
    assert "Best single run: 1.5000" in draw(experiments, [], "x").text
    assert draw(experiments, [], "x").png != draw(experiments[:3], [], "x").png


@pytest.mark.parametrize(
    "text",
    [
        "$\\frac{1}{0}$ $x^{2 $$",
        "日本語 \U0001f600 \u202e reversed",
        "a\x00\x1b[31mred\nnew line",
        "x" * 5_000,
        "word " * 1_000,
        "<script>alert(1)</script> & \\alpha",
        " ",
    ],
)
def test_hostile_labels_are_only_text(text: str) -> None:
    picture = draw(*campaign(text), text)  # a missing glyph or broken mathematics would warn, and warnings are errors
    assert len(picture.png) < 200_000
    assert "\x1b" not in picture.text and "\u202e" not in picture.text and len(picture.text) < 2_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, None])
def test_numbers_that_are_none_are_left_out(value: float | None) -> None:
    experiments = [*baseline(), experiment(4, value, state="finished", reported_bpb=value)]
    wrong = promotion().model_copy(update={"verdict": {"candidate_mean": value}})
    assert "4 experiments" in draw(experiments, [wrong], "x").text


def test_points_that_others_cover_are_left_out_and_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = [experiment(n, 1.5 if n % 7 else 1.4 + n / 5_000) for n in range(1, 400)]
    flat += [experiment(n, None, failure=Failure(kind="oom", message="no memory")) for n in range(400, 1_200)]
    whole = draw(flat, []).png
    drawn = list[int]()
    uncovered = progress_plot._uncovered

    def counted(axes: Any, points: Any) -> Any:
        drawn.append(len(points))
        drawn.append(len(shown := uncovered(axes, points)))
        return shown

    monkeypatch.setattr(progress_plot, "_uncovered", counted)
    monkeypatch.setattr(progress_plot, "_MANY", 3)
    thinned = draw(flat, []).png
    assert any(after < before for before, after in zip(drawn[::2], drawn[1::2]))
    for colour in (VERMILLION, (140, 149, 156)):
        one, other = ({tuple(at) for at in pixels(png, colour)} for png in (whole, thinned))
        near = {(row + down, column + right) for row, column in other for down in (-2, -1, 0, 1, 2) for right in (-2, -1, 0, 1, 2)}
        assert one and one <= near, "a dot is drawn where each was, or beside it"


def test_threads_may_draw_at_once() -> None:
    expected = draw(*campaign(), "x").png
    drawn: list[bytes] = []
    threads = [threading.Thread(target=lambda: drawn.append(draw(*campaign(), "x").png)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == [expected] * 4


def test_imported_numbers_are_drawn_apart_and_move_nothing() -> None:
    experiments, promotions = campaign()
    foreign = [experiment(100 + n, 0.2, commit=BASE, tags=[IMPORTED, "x"], finished_at=float(n)) for n in range(3)]
    foreign.append(experiment(104, None, tags=[IMPORTED]))
    alone, mixed = progress_of(experiments, promotions), progress_of([*experiments, *foreign], promotions)
    assert [value for _, value in mixed.imported] == [0.2, 0.2, 0.2, None]
    assert [point[1:] for point in mixed.verified] == [point[1:] for point in alone.verified]
    assert [c.level for c in mixed.champions] == [c.level for c in alone.champions]
    assert len(mixed.failed) == len(alone.failed) == 1
    for moved in ([], promotions):
        before, after = draw(experiments, moved, "x"), draw([*experiments, *foreign], moved, "x")
        line, kept = (pixels(picture.png, BLUE) for picture in (before, after))
        assert abs(line[:, 0].max() - kept[:, 0].max()) <= 1, "the champion's line lies where it lay"
        assert "Best single run: 1.4080" in after.text and "4 experiments of other labs" in after.text
    first = progress_of(foreign, [], champion=Summary(commit=BASE, n=0))
    assert first.champions == [] and first.verified == []


def test_what_was_measured_under_other_conditions_is_drawn_apart() -> None:
    experiments, promotions = campaign()
    longer = [experiment(20 + n, 1.2, commit=BASE, conditions="8 seconds") for n in range(3)]
    progress = progress_of([*experiments, *longer], promotions)
    assert [value for _, value in progress.elsewhere] == [1.2] * 3 and all(value != 1.2 for _, value, _ in progress.verified)
    text = draw([*experiments, *longer], promotions, "x").text
    assert "Best single run: 1.4080" in text and "3 runs under other conditions" in text and "baseline's 1.5020" in text


def test_a_champion_that_was_measured_under_other_conditions_only_is_no_measure_of_the_gain() -> None:
    experiments, promotions = campaign()
    old = [e.model_copy(update={"conditions": "8 seconds"}) if e.commit == BASE else e for e in experiments]
    text = draw(old, promotions, "x").text
    assert "from the baseline" not in text and "(under other conditions) baseline" in text
    picture = draw(old, promotions, "x")
    line = pixels(picture.png, BLUE)
    assert np.ptp(line[line[:, 0] > 95][:, 0]) < 60, "it doesn't fall from a level that can't be compared"


def test_printed_metrics_under_other_conditions_are_drawn_apart_too() -> None:
    printed = [experiment(n, None, state="finished", reported_bpb=1.0 + n / 10, conditions=c) for n, c in ((1, "k"), (2, "j"))]
    progress = progress_of(printed, [], reported="loss")
    assert [value for _, value in progress.unverified] == [1.1] and [value for _, value in progress.elsewhere] == [1.2]
