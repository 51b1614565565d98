"""Curves of commits beside the champion's: a picture, and the same in twelve points each."""

import io
import math
import re

import numpy as np

from autoresearch_mcp.server.lab.curve_plot import CommitCurves, draw_curves, in_words


def run(end: float, until: float = 1.0) -> list[tuple[float, float]]:
    return [(n / 30, end + 4 * math.exp(-8 * n / 30)) for n in range(1, round(30 * until) + 1)]


CHAMPION = CommitCurves("a" * 40, "baseline", [run(1.60), run(1.62)], is_champion=True)
IDEA = CommitCurves("b" * 40, "Costs $5 and $6, wider", [run(1.55)], live=[run(3.0, until=0.4)])
NEW = CommitCurves("c" * 40, "Not trained yet", [])


def test_each_curve_is_told_in_twelve_points_and_held_against_the_champions() -> None:
    champion, idea, new = in_words([CHAMPION, IDEA, NEW]).splitlines()[1:-1]
    assert champion.startswith("champion  aaaaaaa (n=2): ") and len(re.findall(r"\d+% \d\.\d{4}", champion)) == 12
    assert idea.startswith("Costs $5 and $6, wider  bbbbbbb (n=1, 1 running)") and idea.endswith(
        "At 100% it is -0.0600 from the champion's."
    )
    assert new == "Not trained yet  ccccccc (n=0): no curve yet."


def test_a_run_that_goes_on_bends_no_mean_but_is_one_where_nothing_has_finished() -> None:
    assert IDEA.mean == CommitCurves("b" * 40, "", [run(1.55)]).mean
    assert len(CommitCurves("b" * 40, "", [], live=[run(1.55, until=0.4)]).mean) == 9


def test_the_picture_has_a_line_in_its_own_colour_for_each_and_reads_no_mathematics() -> None:
    from matplotlib.image import imread

    def pixels(png: bytes, colour: str) -> int:
        image = imread(io.BytesIO(png))[..., :3]
        wanted = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
        return int((np.abs(image - wanted).max(axis=2) < 0.02).sum())

    both, alone, empty = (draw_curves(commits, "a lab").png for commits in ([CHAMPION, IDEA, NEW], [CHAMPION], [NEW]))
    assert imread(io.BytesIO(both)).shape[:2] == (600, 1000)
    assert pixels(both, "#D55E00") > 500 > 5 > pixels(alone, "#D55E00") and pixels(alone, "#0072B2") > 1000
    assert pixels(empty, "#0072B2") == 0
