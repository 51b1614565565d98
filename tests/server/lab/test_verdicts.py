"""A verdict says what is under way for the candidate, what more replicates would cost, and worse from within noise."""

from autoresearch_mcp.server.lab.query import ExperimentQuery
from tests.server.measured import MeasuredLab

_BY_COMMIT = ExperimentQuery(group_by="commit")
CHAMPION = [1.60, 1.61, 1.59, 1.605, 1.595, 1.602, 1.598, 1.60001]


def test_replicates_that_are_open_are_counted_and_others_have_a_price(measured: MeasuredLab) -> None:
    lab, champion = measured.lab, measured.lab.champion()
    measured.measure(champion, [*CHAMPION])
    idea = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    measured.measure(idea, [1.585])
    following = lab.promote_commit(idea, "ada").verdict.next
    assert following == f"Replicate 2 of it decides next. launch_training(commit='{idea[:12]}', until='decided') goes on with it."
    for id in lab.launch_training(champion, "bob", 3).experiments:  # 36 s each
        assert measured.ledger.start(id, 1e9) is not None
        measured.ledger.move(id, ["starting"], state="finished", started_at=1.0, finished_at=37.0, val_bpb=1.6, conditions="other")
    assert "36 s a replicate; 15 more, the most that count, take" in lab.promote_commit(idea, "ada").verdict.next

    first, _ = lab.launch_training(idea, "ada", 2).experiments
    assert measured.ledger.start(first, 1e9) is not None
    answer = lab.promote_commit(idea, "ada")
    assert answer.verdict.next.startswith("1 running and 1 queued of it, done in about ") and "wait, then ask again" in answer.note
    assert "launch" not in answer.note, "it must not be launched once more"


def test_a_launch_until_decided_is_named(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), [*CHAMPION])
    idea = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    launched = measured.lab.launch_until_decided(idea, "ada")
    (id,) = launched.experiments
    measured.ledger.keep_evidence(id, "landlock-7", 1.585, None)
    measured.ledger.move(id, ["queued"], state="finished", val_bpb=1.585, started_at=1.0, finished_at=30.0, conditions="k")
    assert f"{launched.until_decided} goes on until it is decided." in measured.lab.promote_commit(idea, "ada").verdict.next


def test_a_gain_within_noise_is_not_called_worse(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.champion(), [*CHAMPION])
    states = {}
    for name, values in {"noise": [1.601, 1.599], "worse": [1.70, 1.71]}.items():
        idea = measured.propose("DEPTH = ", f"DEPTH = {len(states) + 1} + ")
        measured.measure(idea, list(values))
        verdict = measured.lab.promote_commit(idea, "ada").verdict
        assert verdict.code == "futile"
        row = next(row for row in measured.lab.query_experiments(_BY_COMMIT).rows if row["commit"] == idea)
        states[name] = (verdict.reason.split(":")[0], row["state"])
    assert states == {
        "noise": ("Within noise, and not better by enough", "decided: futile, within noise"),
        "worse": ("Worse", "decided: futile, worse"),
    }
