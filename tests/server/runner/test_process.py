"""The runner's process: one a lab however many call at once, nobody's child, stopped without stopping a training."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.answers import Range
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES
from autoresearch_mcp.server.paths import LabPaths, StatePaths
from autoresearch_mcp.server.runner import process
from autoresearch_mcp.server.runner.lock import runner_alive, runner_lock, stop_runner
from autoresearch_mcp.server.runner.start import ensure_runner
from autoresearch_mcp.server.runner.watch import Outcome
from autoresearch_mcp.trainer import files
from tests.acceptance.processes import launchers, processes
from tests.trainings import lasting
from tests.waiting import until


def at_once(count: int, work: Callable[[], object]) -> None:
    """Do it in so many threads that start together."""
    barrier = threading.Barrier(count, timeout=60)

    def wait_and_work() -> None:
        barrier.wait()
        work()

    threads = [threading.Thread(target=wait_and_work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_calls_at_once_start_one_runner_that_is_nobodys_child(lab_root: Path) -> None:
    state = lab_root / ".autoresearch"
    at_once(4, lambda: ensure_runner(lab_root, state))
    until(lambda: runner_alive(state) and len(processes(lab_root, "runner")) == 1)  # the others left, as the lock was taken
    (runner,) = processes(lab_root, "runner")
    assert int(StatePaths(state).runner_lock.read_text(encoding="ascii")) == runner
    assert os.getsid(runner) != os.getsid(0)
    assert f"PPid:\t{os.getpid()}\n" not in Path(f"/proc/{runner}/status").read_text(encoding="utf-8")
    ensure_runner(lab_root, state)
    assert processes(lab_root, "runner") == [runner]
    stop_runner(state)
    until(lambda: not processes(lab_root, "runner"))
    assert "Traceback" not in StatePaths(state).runner_log.read_text(encoding="utf-8")


def test_a_process_that_looks_for_a_runner_is_not_taken_for_one(tmp_path: Path) -> None:
    answers: list[bool] = []
    at_once(4, lambda: answers.extend(runner_alive(tmp_path) for _ in range(500)))
    assert answers == [False] * 2000
    with runner_lock(tmp_path) as mine:
        assert mine and runner_alive(tmp_path)
        with runner_lock(tmp_path) as second:
            assert not second
    assert not runner_alive(tmp_path) and not runner_alive(tmp_path / "nowhere")


def test_a_second_runner_leaves_quietly(lab_root: Path) -> None:
    with runner_lock(lab_root / ".autoresearch"):
        second = subprocess.run([sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "runner", str(lab_root)], capture_output=True)
    assert (second.returncode, second.stdout, second.stderr) == (0, b"", b"")


def test_a_stop_harms_nobody_who_has_got_the_process_id_of_a_dead_runner(lab_root: Path) -> None:
    state = lab_root / ".autoresearch"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as innocent:
        StatePaths(state).runner_lock.write_text(str(innocent.pid), encoding="ascii")
        stop_runner(state)
        stop_runner(state)
        assert innocent.stdin is not None
        innocent.stdin.close()
    assert innocent.returncode == 0
    stop_runner(lab_root / "nowhere")


def test_a_stop_harms_nobody_who_has_got_that_id_while_others_look_at_the_lock(lab_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, looks = LabPaths(lab_root).runner_lock, 0
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as innocent, path.open("w", encoding="ascii") as looker:
        looker.write(str(innocent.pid))
        looker.flush()
        assert files.try_lock(looker, shared=True)

        def until_the_third_look(_seconds: float) -> None:
            nonlocal looks
            looks += 1
            if looks == 3:
                looker.close()

        monkeypatch.setattr("autoresearch_mcp.server.runner.lock.time.sleep", until_the_third_look)
        stop_runner(LabPaths(lab_root).state)
        assert innocent.stdin is not None
        innocent.stdin.close()
    assert innocent.returncode == 0 and looks == 3


def test_a_runner_that_does_not_leave_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.server.runner.lock._LEAVES_S", 0.2)
    deaf = """
import os, signal, sys, time
from pathlib import Path
from autoresearch_mcp.server.runner.lock import runner_lock
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with runner_lock(Path(sys.argv[1])) as file:
    print(os.getpid(), file=file, flush=True)
    print(flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", deaf, str(tmp_path)], stdout=subprocess.PIPE) as runner:
        try:
            assert runner.stdout is not None and runner.stdout.readline()
            stop_runner(tmp_path)
            assert runner.wait(60) == -signal.SIGKILL and not runner_alive(tmp_path)
        finally:
            runner.kill()


def test_a_training_outlives_a_stopped_runner_and_the_next_one_records_it(make_lab: Callable[..., Path]) -> None:
    root = make_lab("stopped", {"budget_s = 1 ": "budget_s = 3 "}, lasting(2.0))
    state = root / ".autoresearch"
    lab, ledger = Lab(root), Ledger(root / ".autoresearch" / "ledger.sqlite")
    (id,) = lab.launch_training("champion", "ada").experiments
    (supervisor,) = until(lambda: launchers(root))
    stop_runner(state)
    assert not runner_alive(state) and ledger.open_experiments(*ACTIVE_STATES) and launchers(root) == [supervisor]
    until(lambda: lab.states([id])[0].state == "finished")  # the first look starts the next runner
    assert lab.get_experiment(id).attempt == 1
    lab.close()
    ledger.close()


def test_work_that_came_while_the_runner_was_leaving_is_seen(lab_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, lab = lab_root / ".autoresearch", Lab(lab_root)
    looks = []

    async def drive(_settings: object, _paths: object, ledger: Ledger, _watch: object) -> Outcome:
        """In the place of the loop: its last look is over, and its lock still held, when a server launches."""
        looks.append(len(ledger.open_experiments()))
        if len(looks) == 1:
            lab.launch_training("champion", "ada")
            assert processes(lab_root, "runner") == []
        elif len(looks) == 2:
            ledger.request_cancel(ledger.open_experiments()[0].id)
            lab.launch_sweep("champion", "ada", {"UNEMBEDDING_LR": Range(low=0.001, high=0.1)}, 2, sampler="random")
        else:
            ledger.cancel([each.id for each in ledger.open_sweeps()], "ada")
        return "idle"

    monkeypatch.setattr(process, "_drive", drive)
    assert process.main(lab_root) == 0
    assert looks == [0, 1, 0] and not runner_alive(state)
    lab.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_runner_quickly_and_quietly(lab_root: Path, number: int) -> None:
    command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "runner", str(lab_root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as runner:
        Lab(lab_root).close()  # makes the ledger, if the runner did not
        until(lambda: "SigCgt" in (status := Path(f"/proc/{runner.pid}/status").read_text(encoding="utf-8")) and catches(status, number))
        runner.send_signal(number)
        out, err = runner.communicate(timeout=10)
    assert (runner.returncode, out, err) == (0, b"", b"")


def catches(status: str, number: int) -> bool:
    """Whether a process has handlers of its own for SIGTERM and for this signal: Python itself has one for SIGINT from the start."""
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return all(mask >> (n - 1) & 1 for n in (number, signal.SIGTERM))


def test_a_runner_of_a_broken_lab_says_why(make_lab: Callable[..., Path]) -> None:
    root = make_lab("broken", {"slots = 0": "slots = -1"})
    done = subprocess.run([sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "runner", str(root)], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "[compute] slots" in done.stderr
    assert not runner_alive(root / ".autoresearch")
