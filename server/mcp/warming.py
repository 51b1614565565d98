"""Libraries that the first calls of a server need: a second of them, loaded while it already listens, before anybody asks."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from autoresearch_mcp.server.lab.lab import Lab

logger = logging.getLogger(__name__)
_PATIENCE_S = 10.0  # for a reading that is under way when the server ends


@contextmanager
def warmed_up(lab: Lab) -> Iterator[None]:
    """Warm a lab up in a thread, beside what the block does."""
    warming = threading.Thread(target=_warm, args=(lab,), name="warm-up", daemon=True)
    warming.start()
    try:
        yield
    finally:
        warming.join(_PATIENCE_S)


def _warm(lab: Lab) -> None:
    try:
        lab.warm_up()
    except Exception:  # a call that needs the same says it in its answer
        logger.warning("the lab was not warmed up", exc_info=True)
