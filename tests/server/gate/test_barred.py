"""One finding of a look ahead or of state bars a commit, and everything built on it."""

import time
from typing import Any

import pytest

from autoresearch_mcp.server.commands.hidden_scores import findings
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.models import Experiment, new_id
from tests.server.gate.test_promotion import BETTER, CHAMPION
from tests.server.measured import MeasuredLab

WHERE = "0.3 nats apart at or before position 17 of row 5"


def fail_scoring(lab: MeasuredLab, commit: str, **changes: Any) -> None:
    e = Experiment(
        id=new_id("e"),
        commit=commit,
        base=commit,
        author="ada",
        hypothesis="h",
        seed=99,
        device="cpu",
        created_at=time.time(),
        reserved_s=1.0,
    )
    lab.ledger.enqueue([e], 1e9, None, "r")
    lab.ledger.move(e.id, ["queued"], state="starting", started_at=time.time())
    lab.ledger.keep_evidence(e.id, "landlock-7", None, "w", finding=WHERE if changes.get("barred") else "")
    lab.ledger.move(
        e.id, ["starting"], state="crashed", conditions="k", fault="code", ended_in="scoring", finished_at=time.time(), **changes
    )


def test_a_look_ahead_bars_the_commit_and_everything_built_on_it(measured: MeasuredLab) -> None:
    champion = measured.lab.status().champion.commit
    measured.measure(champion, [*CHAMPION])
    cheat = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    built = measured.propose("DEPTH = 1 + ", "DEPTH = 2 + ", base=cheat)
    fail_scoring(measured, cheat, barred=True)
    for commit in (cheat, built):
        measured.measure(commit, [*BETTER])  # however good it looks
        answer = measured.lab.promote_commit(commit, "ada")
        assert not answer.promoted and answer.verdict.code == "barred" and answer.verdict.final
    for base in (cheat, built):
        with pytest.raises(LabError, match="looks ahead") as refused:
            measured.propose("DEPTH = ", "DEPTH = 3 + ", base=base)
        assert refused.value.code == "barred"
    honest = measured.propose("DEPTH = ", "DEPTH = 4 + ")
    measured.measure(honest, [*BETTER])
    assert measured.lab.promote_commit(honest, "ada").promoted


def test_another_failure_in_scoring_bars_the_commit_alone(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.status().champion.commit, [*CHAMPION])
    broken = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    fail_scoring(measured, broken)
    repaired = measured.propose("DEPTH = 1 + ", "DEPTH = 2 + ", base=broken)
    measured.measure(repaired, [*BETTER])
    assert measured.lab.promote_commit(broken, "ada").verdict.code == "barred"
    assert measured.lab.promote_commit(repaired, "ada").promoted


def test_only_the_owner_reads_where_a_check_failed(measured: MeasuredLab) -> None:
    cheat = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    fail_scoring(measured, cheat, barred=True)
    ((_, commit, where),) = findings(measured.root)
    assert (commit, where) == (cheat, WHERE)
    assert WHERE not in str(measured.lab.promote_commit(cheat, "ada"))


def test_models_that_answer_alike_count_once(measured: MeasuredLab) -> None:
    measured.measure(measured.lab.status().champion.commit, [*CHAMPION])
    constant = measured.propose("DEPTH = ", "DEPTH = 1 + ")
    for id in measured.measure(constant, [1.40, 1.41, 1.39]):
        measured.ledger.keep_evidence(id, "landlock-7", 1.40, id, "the same answers")
    verdict = measured.lab.promote_commit(constant, "ada").verdict
    assert not verdict.promote and verdict.n == 1
