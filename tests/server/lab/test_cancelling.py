"""Cancelling many trainings at once: whose they are decides what is stopped, also for who may stop anybody's."""

from tests.server.measured import MeasuredLab


def test_an_orchestrators_own_trainings_are_its_own_alone(measured: MeasuredLab) -> None:
    lab = measured.lab
    own = lab.launch_training("champion", "boss", 1).experiments
    others = lab.launch_training("champion", "ada", 1).experiments
    for reason in ("", "a reason that must not reach ada's"):
        answer = lab.cancel("boss", mine=True, reason=reason, anyones=True)
        assert set(answer.states) <= set(own) and "Left alone" not in answer.note
    assert [e.id for e in measured.ledger.open_experiments("queued")] == others
