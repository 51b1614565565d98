"""A lab that was set up on Modal's stand-in."""

from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server.compute.modal.setup import set_up
from tests.standins.modal.standin import Standin


@pytest.fixture(scope="session")
def deployed(modal_standin: Standin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a lab after `setup modal`, on the profile `tiny`."""
    state = tmp_path_factory.mktemp("deployed")
    anyio.run(set_up, state, "tiny", "autoresearch", "autoresearch")
    return state
