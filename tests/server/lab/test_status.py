"""The status counts what the gate counts, and what it advises agrees with the gate's verdict."""

from typing import Any

import pytest

from autoresearch_mcp.server.gate.spread import pooled_sd
from autoresearch_mcp.server.models import IMPORTED
from tests.server.measured import MeasuredLab

GOOD = [1.40, 1.41, 1.39]


def mean_of(values: list[float]) -> Any:
    return pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"weights": "w"}, "equal bit for bit"),
        ({"sandbox": "unsandboxed"}, "without a sandbox"),
        ({"scored": False}, "no score on the hidden split"),
        ({"conditions": "older"}, None),
        ({"reproduces": "e-00000000000000a"}, None),
    ],
)
def test_the_champions_replicates_are_those_that_the_gate_counts(measured: MeasuredLab, extra: dict[str, Any], why: str | None) -> None:
    lab, champion = measured.lab, measured.lab.champion()
    better = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    measured.measure(better, GOOD)
    measured.measure(champion, [1.50], **extra)
    measured.measure(champion, [1.50, 1.70], **extra)
    measured.measure(champion, [1.60])
    once = [1.60, 1.50] if "weights" in extra else [1.60]
    status, verdict = lab.status(), lab.promote_commit(better, "ada").verdict
    assert (status.champion.n, status.champion.mean) == (verdict.m, pytest.approx(verdict.champion_mean)) == (len(once), mean_of(once))
    assert verdict.code == "champion"
    (row,) = [row for row in status.leaderboard if row.commit == champion]
    assert (row.n, row.mean, row.sd) == (status.champion.n, status.champion.mean, status.champion.sd)
    assert status.noise_sd == pytest.approx(pooled_sd([GOOD, once]))
    if why in ("equal bit for bit", "without a sandbox"):
        assert any(why in step and f"{8 - len(once)} more" in step for step in status.next)

    measured.measure(champion, [1.61, 1.59, 1.62, 1.58, 1.605, 1.595, 1.615][: 8 - len(once)])
    assert lab.promote_commit(better, "ada").promoted


def test_where_more_replicates_of_the_champion_would_not_count_either_none_are_asked_for(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), [1.60, 1.61, 1.59], sandbox="unsandboxed")
    status = measured.lab.status()
    assert status.champion.n == 0 and status.champion.mean is None and status.leaderboard == [] and status.noise_sd is None
    assert not any("launch_training" in step for step in status.next)
    assert any("without a sandbox" in step for step in status.next) and any("propose_patch" in step for step in status.next)


def test_replicates_that_ended_since_the_last_look_are_counted(measured: MeasuredLab) -> None:
    champion = measured.lab.champion()
    for n, value in enumerate([1.60, 1.61, 1.59], 1):
        measured.measure(champion, [value])
        (row,) = measured.lab.status().leaderboard
        assert (row.n, measured.lab.status().champion.n) == (n, n)
    assert measured.lab.status().noise_sd == pytest.approx(0.01)


def test_an_imported_record_of_the_champion_is_placed_without_counting(measured: MeasuredLab) -> None:
    lab, champion = measured.lab, measured.lab.champion()
    (id,) = measured.measure(champion, [1.60], conditions="elsewhere")
    other = measured.ledger.experiment(id)
    assert other is not None
    imported = other.model_copy(update={"id": "e-000000000000001", "conditions": "unknown here", "tags": [IMPORTED]})
    lab.import_records("experiments", [imported])
    comparison = lab.get_experiment(imported.id).against_champion
    assert "not measured under the same conditions" in comparison and "imported" in comparison
    lab.import_records("experiments", [imported.model_copy(update={"id": "e-000000000000002", "conditions": "elsewhere"})])
    comparison = lab.get_experiment("e-000000000000002").against_champion
    assert "mean 1.6000 (n=1)" in comparison and "counts nowhere" in comparison
    assert lab.status().champion.n == 1


def test_a_reproduction_of_the_champion_under_new_conditions_is_placed_without_counting(measured: MeasuredLab) -> None:
    lab, champion = measured.lab, measured.lab.champion()
    (id,) = measured.measure(champion, [1.60], conditions="old")
    (again,) = measured.measure(champion, [1.55], conditions="new", reproduces=id)
    comparison = lab.get_experiment(again).against_champion
    assert "not measured under the same conditions" in comparison and f"reproduction of {id}" in comparison


def test_when_conditions_changed_the_champion_is_to_be_measured_again(measured: MeasuredLab) -> None:
    lab, champion = measured.lab, measured.lab.champion()
    measured.measure(champion, [1.60, 1.61, 1.59], conditions="5 seconds")
    better = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    measured.measure(better, GOOD, conditions="8 seconds")
    verdict = lab.promote_commit(better, "ada").verdict
    assert verdict.code == "champion" and "3 of the champion's were measured under other conditions" in verdict.reason
    assert "The lab trains 4 more replicates of the champion first" in verdict.next
    measured.measure(champion, [1.60, 1.61, 1.59, 1.62, 1.58, 1.605, 1.595, 1.615], conditions="8 seconds")
    assert lab.promote_commit(better, "ada").promoted


def test_the_status_counts_the_chances_that_the_gate_gave_away(measured: MeasuredLab) -> None:
    lab, champion = measured.lab, measured.lab.champion()
    assert lab.status().expected_false_promotions == 0
    measured.measure(champion, [1.50 + 0.01 * (n % 3) + n * 1e-5 for n in range(9)])
    for n, name in enumerate(("DEPTH", "WIDTH"), 1):
        commit = measured.propose(f"{name} = ", f"{name} = 1 + ")
        measured.measure(commit, [1.505])
        for _ in range(3):
            lab.promote_commit(commit, "ada")
        status = lab.status()
        assert status.expected_false_promotions == pytest.approx(n * lab.settings.promotion.level), "asking again costs nothing"
    assert status.noise_nu == 8


def test_launches_until_decided_are_listed_while_they_are_open(measured: MeasuredLab) -> None:
    lab = measured.lab
    commits = [measured.propose(f"{name} = ", f"{name} = 1 + ") for name in ("DEPTH", "WIDTH")]
    ids = [lab.launch_until_decided(commit, author).until_decided for commit, author in zip(commits, ("ada", "bob"))]
    assert [(each.id, each.commit, each.author, each.n, each.position) for each in lab.status().open] == [
        (ids[0], commits[0][:12], "ada", 0, 1),
        (ids[1], commits[1][:12], "bob", 0, 2),
    ]
    (training,) = measured.ledger.open_trainings()[ids[0] or ""]
    measured.ledger.move(training, ["queued"], state="starting", started_at=1.0)
    measured.ledger.move(training, ["starting"], state="crashed", finished_at=2.0)
    measured.ledger.move_candidacy(ids[0] or "", verdict="continue")
    lab.cancel("bob", [ids[1] or ""])
    assert [(each.id, each.n, each.verdict) for each in lab.status().open] == [(ids[0], 1, "continue")]


def test_each_row_of_the_leaderboard_says_where_it_stands_beside_a_champion_that_moved(measured: MeasuredLab) -> None:
    lab, first = measured.lab, measured.lab.champion()
    winner, old = measured.propose("DEPTH = ", "DEPTH = 1 + "), measured.propose("DEPTH = ", "DEPTH = 2 + ")
    measured.measure(first, [1.60, 1.61, 1.59, 1.62, 1.58, 1.605, 1.595, 1.615], by_lab=True)
    measured.measure(winner, GOOD)
    assert lab.promote_commit(winner, "ada").promoted
    built = measured.propose("DEPTH = 1 + ", "DEPTH = 3 + ", base=winner)
    measured.measure(winner, [1.40, 1.41, 1.39, 1.42, 1.38, 1.405, 1.395, 1.415], by_lab=True)
    measured.measure(old, [1.30])
    measured.measure(built, [1.399])
    why = {row.commit: row.why for row in lab.status().leaderboard}
    assert why == {
        winner: "champion",
        first: "already in the champion",
        old: "open (n=1), on an old base (promote_commit gives `retrain`)",
        built: "open (n=1), within noise",
    }
