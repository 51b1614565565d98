"""The interpreter of a process that answers many: collections of garbage that keep no call waiting, and heaps that threads share."""

import ctypes
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LONG_S = 0.015  # of computing, for which all other threads stand still
_NEVER = 2**31 - 1
THRESHOLDS = (10_000, 20, _NEVER)  # of new objects, and of collections of the younger ones: Python's own are for smaller programs
YOUNGER = 20  # collections of the younger ones, after which all is looked through
LOOK_S = 5.0  # between looks whether there were so many
_ARENA_MAX, _HEAPS = -8, 2  # of glibc's malloc.h


@contextmanager
def short_collections() -> Iterator[None]:
    """Keep collections short and few until the block ends: what there is now, and what outlived a long one, isn't looked through again.

    Libraries and caches come with the first calls. Where they are replaced, they are freed as ever: only what refers to itself stays,
    and little of what is alive at such a moment ever does.

    A thread has all looked through, and Python never does so by itself. A function in `gc.callbacks` could tell which collection is long too, but
    each would then let other threads go on in the middle of whatever makes an object: `ast.parse` fails of that (python/cpython#106905).
    """
    is_ending = threading.Event()

    def watch() -> None:
        while not is_ending.wait(LOOK_S):
            if gc.get_count()[2] >= YOUNGER:
                collect()

    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    watching = threading.Thread(target=watch, name="collections", daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_ending.set()
        watching.join()
        gc.set_threshold(*before)
        gc.unfreeze()


def collect() -> None:
    """Look all objects through for garbage, but those that are kept apart; where that takes long, keep what is left apart too."""
    began = time.thread_time()
    gc.collect()
    if time.thread_time() - began > LONG_S:
        gc.freeze()


def share_heaps() -> None:
    """Have threads share two heaps of the C library, where it is glibc.

    By itself it gives each of 16 threads its own, and what one of them freed no other takes: of 355 MB that a server held after ten busy
    minutes, 80 were free, and more with each minute.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _HEAPS)
