"""Where trainings run: one small interface in `base.py`, one file a backend, imported where it is used."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoresearch_mcp.server.compute.base import Compute
    from autoresearch_mcp.server.settings import Settings


def open_compute(settings: "Settings", state: Path, log: Path) -> "Compute":
    """The backend that `lab.toml` names. `log`: where the launchers' own messages go."""
    if settings.rents:
        from autoresearch_mcp.server.compute.modal.backend import ModalCompute
        from autoresearch_mcp.server.devices import requests

        return ModalCompute(settings.training.profile, state, requests())
    from autoresearch_mcp.server.compute.local.backend import LocalCompute

    return LocalCompute(settings.training.profile, settings.training.threads, log)
