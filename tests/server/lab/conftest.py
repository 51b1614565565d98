"""What the tests of the use cases share: labs that nobody runs."""

from collections.abc import Iterator

import pytest

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from tests.server.measured import MeasuredLab, without_runner


@pytest.fixture
def lab(measured: MeasuredLab) -> Lab:
    """A lab whose experiments stay queued."""
    return measured.lab


@pytest.fixture
def ledger(measured: MeasuredLab) -> Ledger:
    """The ledger of that lab."""
    return measured.ledger


@pytest.fixture(scope="module")
def lab_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredLab]:
    """One lab for all tests of a file."""
    root = tmp_path_factory.mktemp("labs") / "lab"
    create_lab(root, profile="tiny", budget_s=1.0)
    with without_runner(root) as measured:
        yield measured
