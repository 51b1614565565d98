"""A runner that is killed at any step of a launch until decided is continued by the next one, and nothing is lost or doubled."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.ledger import Ledger
from tests.server.harness import LabHarness
from tests.server.runner.test_candidacies import candidacy, drive, launch, propose

WRITES = ("enqueue", "move", "move_candidacy", "request_cancel", "keep_evidence", "keep_decision", "keep_trial", "move_sweep")


class Killed(BaseException):
    """The runner's process ends here."""


class Assassin:
    """Kills whoever writes to the ledger, just before or just after the write of a given number."""

    def __init__(self, ledger: Ledger, number: int, after: bool) -> None:
        self.left = number
        self.after = after
        for name in WRITES:
            setattr(ledger, name, self._guarded(getattr(ledger, name)))

    def _guarded(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            answer = write(*args, **kwargs)
            if self.left == 0:
                raise Killed
            return answer

        return guarded


def consistent(harness: LabHarness, *ids: str) -> None:
    """Every candidacy is decided, each of its replicates ended once, one after the other, each with its own seed."""
    ledger = harness.ledger
    assert ledger.open_experiments() == [] and ledger.open_candidacies() == [] and ledger.open_trainings() == {}
    assert harness.lab.status().budget.reserved_s == 0
    for id in ids:
        ended = candidacy(harness, id)
        assert ended.state == "decided", ended
        rows = ledger.ended(ledger.trainings_of(id))
        assert len(rows) == ended.replicates >= 1
        in_order = sorted(rows.values(), key=lambda row: row["started_at"])
        assert all(one["finished_at"] <= other["started_at"] for one, other in pairwise(in_order))
        assert len({row["seed"] for row in rows.values() if row["state"] == "finished"}) == sum(
            row["state"] == "finished" for row in rows.values()
        )


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [*range(1, 14), 20, 33])
def test_a_runner_killed_at_any_write_is_continued(make_lab: Callable[..., Path], number: int, after: bool) -> None:
    harness = LabHarness(make_lab("killed", {"slots = 0": "slots = 1"}))
    id = launch(harness, propose(harness, 1, gain=40))
    plain, harness.ledger = harness.ledger, Ledger(harness.state / "ledger.sqlite")
    assassin = Assassin(harness.ledger, number, after)
    with pytest.raises(Killed):
        drive(harness)
    assert assassin.left == 0
    harness.ledger.close()
    harness.ledger = plain
    drive(harness)
    consistent(harness, id)
    assert candidacy(harness, id).verdict == "promote"
    harness.close()
