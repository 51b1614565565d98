"""Who may run agents' code on a machine, and when."""

import os
import tempfile
from pathlib import Path
from typing import cast

import pytest

from autoresearch_mcp.trainer.meter import Meter
from autoresearch_mcp.trainer.quiet import Floor, Turn
from autoresearch_mcp.trainer.sandbox.processes import Family


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_many_share_the_floor_and_nobody_takes_it_from_them() -> None:
    first, second, scorer = Floor(), Floor(), Floor()
    assert first.try_share() and second.try_share()
    assert not scorer.try_take()
    assert first.is_wanted() and second.is_wanted()
    first.leave()
    assert not scorer.try_take()
    second.leave()
    assert scorer.try_take()


def test_nobody_trains_while_a_model_is_scored_and_models_are_scored_one_by_one() -> None:
    training, scorer, other = Floor(), Floor(), Floor()
    assert scorer.try_take() and not other.try_take() and not training.try_share() and training.is_wanted()
    scorer.leave()
    assert other.try_take() and not training.try_share()
    other.leave()
    assert not training.is_wanted() and training.try_share()


def test_who_waits_for_the_floor_gets_it_before_others_share_it() -> None:
    first, late, scorer = Floor(), Floor(), Floor()
    assert first.try_share() and not scorer.try_take() and not late.try_share()


def test_the_floor_of_a_process_that_died_is_free() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if Floor().try_take() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert Floor().try_share()


def test_locks_that_another_user_could_have_laid_are_refused(tmp_path: Path) -> None:
    (tmp_path / f"autoresearch-{os.getuid()}").symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="TMPDIR"):
        Floor()


def test_a_lab_that_is_not_quiet_waits_for_nobody_and_nobody_for_it() -> None:
    def turn(takes_turns: bool) -> Turn:
        family, meter = cast(Family, None), cast(Meter, None)  # only stops are told to them; a real family would adopt other tests' orphans
        return Turn(takes_turns, family, meter, lambda: None)

    training, quiet, loud = Floor(), turn(True), turn(False)
    assert training.try_share()
    assert not quiet.try_alone() and loud.try_alone()
    loud.end()
    assert not quiet.try_alone()
    training.leave()
    assert quiet.try_alone()
