"""What the server's tests share: a lab whose measurements the test writes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.measured import MeasuredLab, without_runner


@pytest.fixture
def measured(make_lab: Callable[..., Path]) -> Iterator[MeasuredLab]:
    """A lab without measurements. No runner works in it while the test does."""
    with without_runner(make_lab()) as measured:
        yield measured
