"""A metric of the owner's own: which way is better holds everywhere, and negative numbers are numbers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.lake.schema import TABLES
from tests.server.measured import MeasuredLab

HIGHER = '[metric]\nname = "reward"\ngoal = "max"\n\n[compute]'
CHAMPION = [-0.52, -0.51, -0.53, -0.515, -0.525, -0.522, -0.518, -0.5201]
BETTER, WORSE = [0.12, 0.11, 0.13], [-0.92, -0.91, -0.93]


@pytest.fixture
def bench(make_lab: Callable[..., Path]) -> Iterator[MeasuredLab]:
    lab = MeasuredLab(make_lab(toml={"[compute]": HIGHER, 'reported = "refuse"': 'reported = "allow"'}))
    yield lab
    lab.close()


def test_a_higher_reward_wins_and_a_lower_one_never(bench: MeasuredLab) -> None:
    champion = bench.lab.champion()
    bench.measure(champion, CHAMPION, reported=True)
    better, worse = bench.propose("DEPTH = ", "DEPTH = 1 + "), bench.propose("DEPTH = ", "DEPTH = 2 + ")
    ids = bench.measure(better, BETTER, reported=True)
    bench.measure(worse, WORSE, reported=True)
    assert "better than the champion's" in bench.lab.get_experiment(ids[0]).against_champion
    status = bench.lab.status()
    assert "higher is better" in status.metric and "reward" in status.metric and not any("goal" in each for each in status.warnings)
    assert [leader.commit for leader in status.leaderboard] == [better, champion, worse]

    rows = bench.lab.query_experiments(ExperimentQuery(order_by="reported_bpb", limit=20, columns=["reported_bpb"])).rows
    assert [row["reported_bpb"] for row in rows] == sorted([*CHAMPION, *BETTER, *WORSE], reverse=True)

    refused = bench.lab.promote_commit(worse, "ada").verdict
    assert not refused.promote and refused.gain == pytest.approx(-0.4, abs=0.01)
    assert bench.lab.promote_commit(better, "ada").promoted
    picture = bench.lab.plot_progress().text
    assert "Best single run: 0.1300" in picture and "higher is better" in picture


GUARD = '[[metric.guard]]\nname = "latency ms"\n{}\n\n[compute]'
LATENCY = [10.0, 10.2, 9.8, 10.1, 9.9, 10.0, 10.1, 9.9]


@pytest.mark.parametrize(
    ("rule", "latencies", "code", "words"),
    [
        ("margin = 0.5", [10.1, 10.0, 10.2], "promote", ""),
        (
            "margin = 0.5",
            [15.0, 15.1, 14.9],
            "guard",
            "its latency ms of 15 is worse than allowed: the champion's is 10 and the margin 0.5",
        ),
        ("margin = 0.5", [10.4, 10.2, 10.6], "continue", "its latency ms of 10.4 is not surely within its limit"),
        ("margin = 0.5", [], "continue", "3 of its replicates gave no latency ms"),
        ("bound = 11", [10.1, 10.0, 10.2], "promote", ""),
        ("bound = 11", [12.1, 12.0, 12.2], "guard", "the bound is 11"),
        ("bound = 11\ngoal = 'max'", [12.1, 12.0, 12.2], "promote", ""),
        ("bound = 11\ngoal = 'max'", [10.1, 10.0, 10.2], "guard", "the bound is 11"),
    ],
)
def test_a_guarded_metric_that_got_worse_stands_against_a_promotion(
    make_lab: Callable[..., Path], rule: str, latencies: list[float], code: str, words: str
) -> None:
    bench = MeasuredLab(make_lab(toml={"[compute]": GUARD.format(rule)}))
    champion, better = bench.lab.champion(), bench.propose("DEPTH = ", "DEPTH = 1 + ")
    bench.measure(champion, [1.6 + value for value in CHAMPION], metrics=[{"latency ms": value} for value in LATENCY])
    (id, *_) = bench.measure(better, [0.5, 0.51, 0.49], metrics=[{"latency ms": value} for value in latencies])
    verdict = bench.lab.promote_commit(better, "ada").verdict
    assert (verdict.code, verdict.promote) == (code, code == "promote") and words in verdict.reason
    assert verdict.final == (code in ("promote", "guard"))
    if code == "guard":
        assert f"latency ms {latencies[0]:g} (champion 10)" in bench.lab.get_experiment(id).against_champion
        sql = "SELECT json_extract(metrics, '$.\"latency ms\"') AS ms FROM experiments ORDER BY ms DESC"
        rows = bench.lab.query_experiments(ExperimentQuery(sql=sql, limit=1)).rows
        assert rows == [{"ms": max([*latencies, *LATENCY])}]
    bench.close()


@pytest.mark.parametrize(
    ("name", "goal", "better"),
    [("test accuracy", "", "max"), ("F1", "", "max"), ("latency ms", "", "min"), ("recall", 'goal = "min"', "min")],
)
def test_a_guards_goal_goes_by_its_name_where_it_is_left_out(tmp_path: Path, name: str, goal: str, better: str) -> None:
    (tmp_path / "lab.toml").write_text(f'[lab]\nname = "x"\n[[metric.guard]]\nname = "{name}"\nmargin = 1\n{goal}\n', encoding="utf-8")
    (guard,) = settings.load(tmp_path).metric.guard
    assert guard.better == better and settings.LaunchSettings.model_validate_json(settings.load(tmp_path).launch().model_dump_json())


def test_a_further_number_orders_experiments_best_first_by_its_guards_goal_in_pages(make_lab: Callable[..., Path]) -> None:
    bench = MeasuredLab(make_lab(toml={"[compute]": GUARD.format("bound = 11")}))
    numbers = [{"latency ms": 3.0, "Recall": 0.5, "seed": 9.5}, {"latency ms": 1.0}, {}, {"latency ms": -2.0, "Recall": 0.25}]
    bench.measure(bench.lab.champion(), [1.7], conditions="others", metrics=[{"latency ms": 0.0}])
    bench.measure(bench.lab.champion(), [1.6, 1.61, 1.62, None, 1.63], metrics=[*numbers, {"latency ms": 3.0}])

    def ranked(name: str, descending: bool | None = None) -> list[tuple[float | None, bool]]:
        rows: list[tuple[float | None, bool]] = []
        cursor: str | None = None
        while cursor is not None or not rows:
            asked = ExperimentQuery(order_by=name, descending=descending, limit=2, cursor=cursor)
            answer = bench.lab.query_experiments(asked)
            rows += [(row[name], row.get("comparable", True)) for row in answer.rows]
            cursor = answer.next_cursor
        return rows

    compared = [(each, True) for each in (-2.0, 1.0, 3.0, 3.0, None)]
    assert ranked("latency ms") == [*compared, (0.0, False)]
    assert ranked("latency ms", descending=True) == [*[(each, True) for each in (3.0, 3.0, 1.0, -2.0, None)], (0.0, False)]
    assert [value for value, _ in ranked("Recall")] == [0.5, 0.25, None, None, None, None]
    assert bench.lab.query_experiments(ExperimentQuery(order_by="seed", limit=1)).rows[0]["seed"] != 9.5  # the column, which agents rely on
    with pytest.raises(
        LabError, match=r"'letency' to order by. Further numbers: Recall, latency ms, seed. Or order by created_at"
    ) as refused:
        bench.lab.query_experiments(ExperimentQuery(order_by="letency"))
    assert refused.value.code == "unknown_column"
    nothing = bench.lab.query_experiments(ExperimentQuery(order_by="Recall", author="nobody"))
    assert nothing.rows == []
    bench.close()


@pytest.mark.parametrize(("name", "asked"), [("val_acc", True), ("f1", True), ("episode reward", True), ("loss", False), ("rmse", False)])
def test_a_name_that_speaks_against_the_default_goal_is_warned_of(make_lab: Callable[..., Path], name: str, asked: bool) -> None:
    bench = MeasuredLab(make_lab(toml={"[compute]": f'[metric]\nname = "{name}"\n\n[compute]'}))
    assert any('[metric] goal = "max"' in warning for warning in bench.lab.status().warnings) == asked
    bench.close()


@pytest.mark.parametrize("value", [-0.3, -1.0, -1e-9, -12345.678, 0.0, 2.5, None])
def test_the_log_stores_negative_metrics_exactly(value: float | None) -> None:
    column = TABLES["experiments"]["reported_bpb"]
    assert column.load([column.store(value)]) == [value]
