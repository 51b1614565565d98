"""Cancelling: once or again, some or many at once; whose they are decides what is stopped, also for who may stop anybody's."""

import pytest

from autoresearch_mcp.server.lab.lab import Lab
from tests.server.measured import MeasuredLab, deeper, refusal


def test_an_orchestrators_own_trainings_are_its_own_alone(measured: MeasuredLab) -> None:
    lab = measured.lab
    own = lab.launch_training("champion", "boss", 1).experiments
    others = lab.launch_training("champion", "ada", 1).experiments
    for reason in ("", "a reason that must not reach ada's"):
        answer = lab.cancel("boss", mine=True, reason=reason, anyones=True)
        assert set(answer.states) <= set(own) and "Left alone" not in answer.note
    assert [e.id for e in measured.ledger.open_experiments("queued")] == others


def test_cancelling_is_idempotent(lab: Lab) -> None:
    (id,) = lab.launch_training("champion", "ada").experiments
    assert lab.cancel("ada", [id]).states == {id: "cancelled"}
    again = lab.cancel("ada", [id])
    assert again.states == {id: "cancelled"} and "before" in again.note
    assert refusal(lambda: lab.cancel("ada", ["e-000000000000000"])).code == "unknown_experiment"
    assert refusal(lambda: lab.cancel("ada", ["../../etc"])).code == "bad_id"


def test_all_of_a_commit_or_all_of_ones_own_is_cancelled_in_one_call(lab: Lab) -> None:
    idea = deeper(lab, 7)
    mine = [*lab.launch_training(idea, "ada", 2).experiments, *lab.launch_training("champion", "ada").experiments]
    (bobs,) = lab.launch_training(idea, "bob").experiments
    candidacy = lab.launch_until_decided(deeper(lab, 9), "ada").until_decided or ""
    held = lab.status().budget.reserved_s / 5
    refused = refusal(lambda: lab.cancel("ada", [mine[0], bobs]))
    assert refused.code == "not_yours" and lab.states([mine[0]])[0].state == "queued", "all or none"
    for wrong in ({}, {"ids": [bobs], "mine": True}, {"commit": idea, "mine": True}):
        assert refusal(lambda wrong=wrong: lab.cancel("ada", **wrong)).code == "bad_arguments"
    answer = lab.cancel("ada", commit=idea)
    assert (
        answer.states == dict.fromkeys(mine[:2], "cancelled") and bobs in answer.note and answer.freed_s == pytest.approx(2 * held, abs=0.1)
    )
    answer = lab.cancel("ada", mine=True)
    assert answer.states == {mine[2]: "cancelled", candidacy: "cancelled"} and answer.freed_s == pytest.approx(2 * held, abs=0.1)
    assert lab.status().budget.reserved_s == pytest.approx(held, abs=0.1)
    answer = lab.cancel("ada", mine=True)
    assert (answer.states, answer.freed_s) == ({}, 0.0) and "Nothing of it is open" in answer.note
    assert refusal(lambda: lab.cancel("chief", commit=idea, anyones=True)).code == "no_reason"
    assert lab.cancel("[owner]", commit=idea, anyones=True).states == {bobs: "cancelled"}
    assert any("The lab's owner cancelled" in news and bobs in news for news in lab.unheard("bob"))
