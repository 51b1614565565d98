"""Alerts while no server of the lab is up: the runner's process looks and sends beside its own work."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.settings import SettingsFile

LOOK_S = 10.0  # between looks: a server looks more often, and what it sent is sent
_PATIENCE_S = 30.0  # for what is being sent when the runner leaves
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def alerts_beside(root: Path, look_s: float = LOOK_S) -> Iterator[None]:
    """Notice and send a lab's alerts in a thread until the block ends, and once more then. Without webhooks in lab.toml, nothing is opened.

    Args:
        root: the lab's folder.
        look_s: seconds between two looks.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_work, args=(root, ended, look_s), name="alerts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_PATIENCE_S)


def _work(root: Path, ended: threading.Event, look_s: float) -> None:
    with contextlib.ExitStack() as opened:
        settings, lab = None, None
        while True:
            is_last = ended.wait(look_s)
            try:
                settings = settings or SettingsFile(root)
                if lab is None and settings.current().alerts.webhooks:
                    from autoresearch_mcp.server.lab.lab import Lab  # a runner of a lab without webhooks needn't hold it

                    lab = opened.enter_context(contextlib.closing(Lab(root)))
                if lab is not None:
                    lab.alerting.tick()
            except Exception as error:  # the runner goes on without them
                if is_last and settings is None:
                    return  # no look could read lab.toml, which is why the runner left: it says so itself
                _log.warning("Alerts are looked at again later: %s", error, exc_info=not isinstance(error, LabError))
            if is_last:
                return
