"""Libraries that the first calls of a server need, loaded while it already listens, before anybody asks."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from autoresearch_mcp.server.lab.lab import Lab

logger = logging.getLogger(__name__)
_PATIENCE_S = 2.0  # for a reading that is under way when the server ends


@contextmanager
def warmed_up(lab: Lab) -> Iterator[None]:
    """Warm a lab up in a thread, beside what the block does."""
    is_ending = threading.Event()

    def warm() -> None:
        try:
            lab.warm_up_writing()
        except Exception:  # a call that needs the same says it in its answer
            if not is_ending.is_set():
                logger.warning("the lab was not warmed up", exc_info=True)

    warming = threading.Thread(target=warm, name="warm-up", daemon=True)
    warming.start()
    try:
        yield
    finally:
        is_ending.set()
        warming.join(_PATIENCE_S)
