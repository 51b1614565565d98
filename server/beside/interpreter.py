"""The interpreter of a process that answers many: collections of garbage that keep no call waiting, and heaps that threads share."""

import ctypes
import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

LONG_S = 0.015  # of computing, for which all other threads stand still
THRESHOLDS = (10_000, 20, 20)  # of new objects, and of collections of the younger ones: Python's own are for smaller programs
_ARENA_MAX, _HEAPS = -8, 2  # of glibc's malloc.h


@contextmanager
def short_collections() -> Iterator[None]:
    """Keep collections short and few until the block ends: what there is now, and what outlived a long one, isn't looked through again.

    Libraries and caches come with the first calls. Where they are replaced, they are freed as ever: only what refers to itself stays,
    and little of what is alive at such a moment ever does.
    """
    began = 0.0

    def watch(phase: str, info: Mapping[str, Any]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        elif info["generation"] == 2 and time.thread_time() - began > LONG_S:
            gc.freeze()

    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    gc.callbacks.append(watch)
    try:
        yield
    finally:
        gc.callbacks.remove(watch)
        gc.set_threshold(*before)
        gc.unfreeze()


def share_heaps() -> None:
    """Have threads share two heaps of the C library, where it is glibc.

    By itself it gives each of 16 threads its own, and what one of them freed no other takes: of 355 MB that a server held after ten busy
    minutes, 80 were free, and more with each minute.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _HEAPS)
