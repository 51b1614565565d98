"""What the server's tests share: a lab whose measurements the test writes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.measured import MeasuredLab


@pytest.fixture
def measured(make_lab: Callable[..., Path]) -> Iterator[MeasuredLab]:
    """A lab without measurements. No runner works in it while the test does."""
    measured = MeasuredLab(make_lab())
    with runner_lock(measured.root / ".autoresearch") as mine:
        assert mine
        yield measured
    measured.close()
