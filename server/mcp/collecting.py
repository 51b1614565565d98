"""Garbage collection for a server of many: no call waits while Python looks through a hundred thousand objects that stay."""

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

LONG_S = 0.015  # of computing, for which all other threads stand still


@contextmanager
def short_collections() -> Iterator[None]:
    """Keep collections short until the block ends: what there is now, and what outlived a long one, isn't looked through again.

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

    gc.freeze()
    gc.callbacks.append(watch)
    try:
        yield
    finally:
        gc.callbacks.remove(watch)
        gc.unfreeze()
