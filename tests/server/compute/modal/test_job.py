"""The states of a job on Modal: the table that its module prints is the one that it keeps to."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server.compute.base import Job
from autoresearch_mcp.server.compute.modal import deployment
from autoresearch_mcp.server.compute.modal import job as sandbox_job
from autoresearch_mcp.server.compute.modal.backend import ModalCompute
from autoresearch_mcp.server.compute.modal.job import TRANSITIONS, State
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.trainer import protocol
from tests.standins.modal.runner import NOOP
from tests.standins.modal.standin import Standin

FINAL = {State.ENDED, State.LOST, State.REFUSED}


def test_the_table_in_the_docstring_is_the_table_of_transitions() -> None:
    printed = {(before, after) for before, after in re.findall(r"^    (\w+) +-> (\w+) ", sandbox_job.__doc__ or "", re.MULTILINE)}
    always = {after for before, after in printed if before == "any"}
    for state in State:
        named = {after for before, after in printed if before == state}
        assert set(TRANSITIONS[state]) == (set() if state in FINAL else named | always), state


def test_every_state_can_be_reached_and_left_unless_it_is_final() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {after for following in TRANSITIONS.values() for after in following} == set(State) - {State.CREATING}
    assert {state for state in State if not TRANSITIONS[state]} == FINAL


@pytest.fixture
def moves(caplog: pytest.LogCaptureFixture) -> Iterator[list[tuple[str, str]]]:
    """The moves of all jobs of this test, as they are logged."""
    moves = list[tuple[str, str]]()

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.msg == "%s: %s -> %s":
                arguments: Any = record.args
                moves.append((str(arguments[1]), str(arguments[2])))

    logger, recorder = logging.getLogger("autoresearch.modal"), Recorder()
    caplog.set_level(logging.DEBUG, logger.name)
    logger.addHandler(recorder)
    yield moves
    logger.removeHandler(recorder)


@pytest.mark.anyio
async def test_a_job_moves_from_its_creation_to_its_score_and_one_that_nobody_made_is_lost(
    modal_standin: Standin, deployed: Path, tmp_path: Path, moves: list[tuple[str, str]]
) -> None:
    compute = ModalCompute("tiny", deployed, requests(), NOOP, patience_s=0.1)
    await compute.prepare()

    def job(orders: str) -> Job:
        id = new_id("e")
        spec = protocol.Spec(id, 1, "tiny", 1.0, 1, deployment.TRAINING, "cpu")
        return Job(id, 1, tmp_path / id / "1", spec, {"train.py": f"# {orders}\n".encode()})

    submitted = job("submit")
    await compute.submit(submitted)
    with anyio.fail_after(60):
        while (await compute.observe(submitted)).phase != "ended":  # noqa: ASYNC110
            await anyio.sleep(0.02)
    assert moves == [("creating", "following"), ("following", "collecting"), ("collecting", "scoring"), ("scoring", "ended")]
    moves.clear()
    assert not await compute.adopt(job("none"))
    assert moves == [("finding", "collecting"), ("collecting", "lost")]
    await compute.close()
