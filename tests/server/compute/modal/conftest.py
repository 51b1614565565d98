"""A backend on Modal's stand-in that leaves nothing running."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.compute.modal.harness import BackendHarness
from tests.standins.modal.standin import Standin


@pytest.fixture
async def harness(modal_standin: Standin, deployed: Path, tmp_path: Path) -> AsyncIterator[BackendHarness]:
    harness = BackendHarness(modal_standin, deployed, tmp_path)
    yield harness
    modal_standin.control(away=False, capacity=None, boot_s=0.0)
    await harness.compute.close()
    for container in modal_standin.running():
        modal_standin.control(preempt=[container["id"]])
