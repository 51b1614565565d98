"""Dictionaries that remember the newest so many of what they were given."""

import contextlib
from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def keep(kept: dict[K, V], key: K, value: V, most: int) -> None:
    """Keep a value as the newest, and let go of the oldest beyond so many. Several threads may do so at once."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        with contextlib.suppress(StopIteration, KeyError, RuntimeError):  # another thread was faster
            del kept[next(iter(kept))]
