"""Modal's stand-in, one for the session, and a lab that was set up on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from server.compute.modal_setup import set_up
from tests.standins.modal.standin import Standin
from tests.standins.modal.standin import standin as run_standin


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    """The process environment points Modal's client at it."""
    with run_standin(tmp_path_factory.mktemp("modal")) as found:
        os.environ.update(found.environment)
        yield found
        for name in found.environment:
            del os.environ[name]


@pytest.fixture(scope="session")
def deployed(standin: Standin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a lab after `setup modal`, on the profile `tiny`."""
    state = tmp_path_factory.mktemp("deployed")
    anyio.run(set_up, state, "tiny", "autoresearch", "autoresearch")
    return state
