"""Offers a lab that trains nothing, which the clients from npm and PyPI share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("labs") / "lab"
    create_lab(root, profile="tiny", budget_s=1.0)
    with runner_lock(LabPaths(root).state):  # so nothing is trained
        yield root
