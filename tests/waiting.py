"""Waiting in tests: on a condition, with a deadline, never for a fixed time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout_s: float = 60.0) -> T:
    """The condition's first true answer; an AssertionError after `timeout_s`."""
    began = time.monotonic()
    while not (answer := condition()):
        waited = time.monotonic() - began
        assert waited < timeout_s, f"not within {timeout_s:.0f} s"
        time.sleep(min(0.02 + waited / 20, 0.1))  # between two looks, of which some cost as much as what is waited for
    return answer
