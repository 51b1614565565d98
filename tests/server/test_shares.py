"""What one agent may use of a lab that many share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.measured import MeasuredLab


@pytest.fixture
def shared(make_lab: Callable[..., Path]) -> Iterator[Callable[[str], MeasuredLab]]:
    opened = list[MeasuredLab]()
    root = make_lab()
    with runner_lock(root / ".autoresearch"):

        def with_limits(swarm: str) -> MeasuredLab:
            toml = root / "lab.toml"
            toml.write_text(f"{toml.read_text('utf-8')}\n[swarm]\n{swarm}\n", "utf-8")
            opened.append(MeasuredLab(root))
            return opened[-1]

        yield with_limits
    for each in opened:
        each.close()


def refusal(measured: MeasuredLab, author: str, replicates: int) -> str:
    with pytest.raises(LabError) as refused:
        measured.lab.launch_training("champion", author, replicates)
    assert refused.value.code == "over_share"
    return str(refused.value)


def test_an_agent_queues_no_more_than_its_share_and_others_are_not_held_up(shared: Callable[[str], MeasuredLab]) -> None:
    measured = shared("queued = 3")
    ids = measured.lab.launch_training("champion", "ada", 2).experiments
    assert "ada has 2 trainings queued, and [swarm] queued in lab.toml allows 3" in refusal(measured, "ada", 2)
    assert len(measured.ledger.open_experiments()) == 2, "a refused launch queues nothing"
    assert len(measured.lab.launch_training("champion", "bob", 3).experiments) == 3
    measured.lab.cancel("ada", ids, None, False, "", False)
    assert len(measured.lab.launch_training("champion", "ada", 3).experiments) == 3


def test_an_agent_uses_no_more_device_hours_than_its_share(shared: Callable[[str], MeasuredLab]) -> None:
    measured = shared("device_hours = 0.05")
    each = measured.lab.settings.longest_s()
    fitting = int(180 // each)
    assert 0 < fitting < 16
    measured.lab.launch_training("champion", "ada", fitting)
    assert f"ada has {180 - fitting * each:.0f} left of the 180 that [swarm] device_hours in lab.toml" in refusal(measured, "ada", 1)
    measured.lab.launch_training("champion", "bob", 1)
