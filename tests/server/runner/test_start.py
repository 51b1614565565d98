"""Starting the runner on demand, and what happens where it dies before it gets to work."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner import start
from autoresearch_mcp.server.runner.lock import runner_alive, runner_lock, stop_runner
from autoresearch_mcp.server.runner.start import ensure_runner
from tests.acceptance.processes import processes
from tests.server.harness import LabHarness
from tests.waiting import until

WORKS, BROKEN = "slots = 0", "slots = -1"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time as callers of the runner see it."""
    clock = SimpleNamespace(now=1e9)
    monkeypatch.setattr(start, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


@pytest.fixture
def lab(make_lab: Callable[..., Path]) -> Iterator[Lab]:
    lab = Lab(make_lab())
    yield lab
    lab.close()


def edit(root: Path, old: str, new: str) -> None:
    path = LabPaths(root).settings
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def deaths(root: Path) -> int:
    return LabPaths(root).runner_log.read_text(encoding="utf-8").count("slots must")


def test_a_runner_that_dies_at_once_is_started_again_after_growing_pauses_and_get_status_says_why(lab: Lab, clock: SimpleNamespace) -> None:
    root, state = lab.root, LabPaths(lab.root).state
    edit(root, WORKS, BROKEN)
    for death, pause_s in enumerate((2, 4, 8), 1):
        assert ensure_runner(root, state)
        until(lambda n=death: deaths(root) == n and not processes(root, "runner"))  # type: ignore[misc]
        assert [ensure_runner(root, state) for _ in range(5)] == [False] * 5
        clock.now += pause_s - 1
        assert not ensure_runner(root, state)
        (warning,) = [text for text in lab.status().warnings if "died before it got to work" in text]
        assert f"{death} time" in warning and "again in 1 s" in warning and "[compute] slots must" in warning
        assert str(root.parent) not in warning
        clock.now += 1
    edit(root, BROKEN, WORKS)
    assert deaths(root) == 3 and ensure_runner(root, state)
    until(lambda: runner_alive(state) and not any("died" in text for text in lab.status().warnings))


def test_a_runner_on_its_way_is_not_started_twice(lab: Lab, clock: SimpleNamespace) -> None:
    root, state = lab.root, LabPaths(lab.root).state
    assert ensure_runner(root, state)
    started = processes(root, "runner")
    clock.now += 50  # longer than the pause after one that died
    assert ensure_runner(root, state)
    assert processes(root, "runner") == started and not any("died" in text for text in lab.status().warnings)
    until(lambda: runner_alive(state))


def test_a_runner_that_was_stopped_has_not_failed(lab: Lab) -> None:
    root, state = lab.root, LabPaths(lab.root).state
    for _ in range(3):
        assert ensure_runner(root, state)
        until(lambda: runner_alive(state))
        stop_runner(state)
    assert not any("died" in text for text in lab.status().warnings)


def test_a_runner_has_got_to_work_only_after_its_first_flush(make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        """Ends a runner as a fault in foreign code would."""

    def killed(self: EmbeddedLake, table: str, ids: list[str]) -> dict[str, int]:
        raise Killed

    harness = LabHarness(make_lab("dying"))
    note = LabPaths(harness.root).runner_starts
    note.write_text('{"count": 3}', encoding="utf-8")
    with runner_lock(harness.state):
        harness.lab.write_memory("finding", "The lake kills.", "ada")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(EmbeddedLake, "present", killed)
        harness.drive()
    assert note.read_text(encoding="utf-8") == '{"count": 3}'
    (warning,) = [text for text in harness.lab.status().warnings if "died before it got to work" in text]
    assert "3 times" in warning
    stop_runner(harness.state)
    note.write_text('{"count": 3}', encoding="utf-8")
    harness.drive()
    assert not note.read_text(encoding="utf-8")
    harness.close()
