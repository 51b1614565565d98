"""What others slow down is no fault of the code, and sleep is. Of a model that sleeps while it is scored, see test_threats.py."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.trainer import machine, patience, prepare, protocol
from tests.trainer.conftest import BIGRAM, Warm
from tests.waiting import until

# The limit is 1 s by its own clock. What the kernel says of waiting is a stand-in's.
PROGRAM = """
import time
from dataclasses import replace
from autoresearch_mcp.trainer import launch, patience, prepare

prepare.PROFILES["tiny"] = replace(prepare.PROFILES["tiny"], score_s=1.0, score_cpu_s=LIMIT, wall_cap=1.5)
began = time.monotonic()
patience.waited_s = lambda pid: WAITED * (time.monotonic() - began) / 4  # four processes are asked
launch.main()
"""
SLOW = BIGRAM.replace("return self.table(idx)", "import time; time.sleep(PAUSE * (__name__ != '__main__')); return self.table(idx)")


@pytest.fixture
def parent(data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Warm]:
    """A warm parent on a machine where the kernel says that a scoring waited for this share of its time."""
    waited, limit = request.param
    program = PROGRAM.replace("WAITED", str(waited)).replace("LIMIT", str(limit))
    started = Warm(data, tmp_path, {"TMPDIR": str(tmp_path)}, ("-c", program))
    yield started
    started.close()


@pytest.mark.parametrize("parent", [(0.9, 15.0)], indirect=True)
def test_a_scoring_that_waits_for_a_core_may_take_longer_than_its_limit(parent: Warm) -> None:
    result = parent.launch(SLOW.replace("PAUSE", "0.004")).wait()
    assert result["state"] == "finished" and result["timings"]["score_s"] > 1.5, result["failure"]


@pytest.mark.parametrize("parent", [(0.99, 1.0)], indirect=True)
def test_a_scoring_that_others_never_let_end_is_the_machines_fault_and_tells_nothing(parent: Warm) -> None:
    launched = parent.launch(SLOW.replace("PAUSE", "60"))
    result = launched.wait()
    assert (result["state"], result["fault"], result["barred"], result["ended_in"]) == ("crashed", "machine", False, "scoring")
    assert result["failure"]["kind"] == "killed" and "no fault of the code" in result["failure"]["message"]
    assert protocol.read_finding(launched.run) == "" and launched.hidden is None


@pytest.mark.parametrize("parent", [(4.0, 15.0), (0.0, 15.0)], indirect=True)
def test_a_training_that_others_keep_from_the_cores_is_the_machines_fault_and_one_that_sleeps_is_not(
    parent: Warm, request: pytest.FixtureRequest
) -> None:
    result = parent.launch(BIGRAM.replace("# before submit", "import time; time.sleep(60)"), budget_s=1.0).wait()
    assert (result["state"], result["failure"]["kind"], result["ended_in"]) == ("timed_out", "timeout", "running")
    assert result["fault"] == ("machine" if request.node.callspec.params["parent"][0] else "code")


def test_waiting_for_a_core_stops_the_clock_and_sleep_does_not() -> None:
    core = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, {{{core}}}); print(flush=True)\nwhile True: pass"
    crowd = [subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) for _ in range(3)]
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        for each in crowd:
            assert each.stdout is not None and each.stdout.readline()
        waiting, sleeping = patience.OwnClock([crowd[0].pid]), patience.OwnClock([sleeper.pid])
        until(lambda: Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S")
        began = sleeping.now(), time.monotonic(), waiting.now()
        while (passed := time.monotonic() - began[1]) < 1:
            pass
        assert waiting.now() - began[2] < 0.7 * passed  # a third, where nobody else is on that core
        assert sleeping.now() - began[0] >= 0.99 * passed
    finally:
        for process in (*crowd, sleeper):
            process.kill()
            process.communicate()


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_model_that_makes_itself_wait_has_used_up_its_cpu_seconds_before_the_machine_is_blamed(threads: int) -> None:
    for profile in (prepare.PROFILES["cpu"], prepare.PROFILES["tiny"]):
        assert patience.longest_s(profile, threads) - profile.score_s > 2 * profile.score_cpu_s * threads
    sealed = prepare.PROFILES["h100"]  # nothing limits CPU seconds there
    assert not patience.excuses_waiting(sealed) and patience.longest_s(sealed, threads) == sealed.score_s + 1


def test_time_in_which_a_run_was_stopped_is_no_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waited = 0.0, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(machine, "waiting_s", lambda: waited)
    crowding = machine.Crowding()
    now = 10.0
    crowding.pause()
    now, waited = 30.0, 20.0
    assert crowding.resume() == 20.0 and crowding.pressure() == 0.0
