"""Where trainings run: one small interface in `base.py`, one file a backend, imported where it is used."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import Settings
    from .base import Compute


def open_compute(settings: "Settings", state: Path, log: Path) -> "Compute":
    """The backend that `lab.toml` names. `log`: where the launchers' own messages go."""
    if settings.rents:
        from .gpus import requests
        from .modal import ModalCompute

        return ModalCompute(settings.training.profile, state, requests())
    from .local import LocalCompute

    return LocalCompute(settings.training.profile, settings.training.threads, log)
