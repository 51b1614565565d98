"""A scoring that takes too long bars its commit, unless other programs kept the machine's cores from it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoresearch_mcp.trainer import machine
from tests.trainer.conftest import BIGRAM, Warm

# Scoring may take a second here. Where the file stands, something on the machine waited for a core all the time.
HURRIED = """
import os, time
from dataclasses import replace
from autoresearch_mcp.trainer import launch, machine, prepare

prepare.PROFILES["tiny"] = replace(prepare.PROFILES["tiny"], score_s=1.0)
machine.waiting_s = lambda: time.monotonic() if os.path.exists({crowded!r}) else 0.0
launch.main()
"""
SLOW = BIGRAM.replace("return self.table(idx)", "import time; time.sleep(2); return self.table(idx)")


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    return tmp_path / "crowded"


@pytest.fixture
def hurried(data: Path, crowded: Path, tmp_path: Path) -> Iterator[Warm]:
    parent = Warm(data, tmp_path, program=("-c", HURRIED.format(crowded=str(crowded))))
    yield parent
    parent.close()


def test_a_slow_scoring_is_the_machines_fault_only_where_others_kept_its_cores(hurried: Warm, crowded: Path) -> None:
    alone = hurried.launch(SLOW).wait()
    assert (alone["state"], alone["failure"]["kind"]) == ("crashed", "invalid_model")
    assert (alone["fault"], alone["ended_in"]) == ("code", "scoring")  # which bars the commit
    crowded.touch()
    beside_others = hurried.launch(SLOW).wait()
    assert (beside_others["fault"], beside_others["ended_in"], beside_others["val_bpb"]) == ("machine", "scoring", None)
    assert "took longer" in beside_others["failure"]["message"] and "launch it again" in beside_others["failure"]["message"]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the kernel says: the time, and for how many seconds something waited for a core."""
    says = SimpleNamespace(now=0.0, waited=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: says.now)
    monkeypatch.setattr(machine, "waiting_s", lambda: says.waited)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    return says


def test_a_run_that_keeps_all_cores_busy_itself_was_not_kept_from_them(kernel: SimpleNamespace) -> None:
    crowding = machine.Crowding(cpu_s=3.0)
    kernel.now = kernel.waited = 10.0
    assert crowding.is_by_others(3.0 + 10.0)  # one of four cores
    assert not crowding.is_by_others(3.0 + 40.0)


def test_time_in_which_a_run_was_stopped_crowds_nothing(kernel: SimpleNamespace) -> None:
    crowding = machine.Crowding()
    kernel.now = 10.0
    crowding.pause()
    kernel.now, kernel.waited = 30.0, 20.0
    assert crowding.resume() == 20.0 and crowding.pressure() == 0.0 and not crowding.is_by_others(0.0)


def test_a_kernel_that_does_not_count_excuses_nothing(kernel: SimpleNamespace) -> None:
    kernel.waited = None
    crowding = machine.Crowding()
    kernel.now = 10.0
    assert crowding.pressure() is None and not crowding.is_by_others(0.0)
