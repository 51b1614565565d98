"""Where trainings run: one small interface in `base.py`, and a folder for each backend.

A new backend is one more folder with a module that has `open_backend`, one line in `BACKENDS`, one more value of
`[compute] backend` in `settings`, and one more `Backend` in `tests/server/compute/test_contract.py`.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoresearch_mcp.server.compute.base import Compute
    from autoresearch_mcp.server.settings import Settings

# `[compute] backend` in lab.toml -> the module that opens it, imported when it is used
BACKENDS: Mapping[str, str] = {
    "local": "autoresearch_mcp.server.compute.local.opening",
    "modal": "autoresearch_mcp.server.compute.modal.backend",
    "slurm": "autoresearch_mcp.server.compute.slurm.backend",
    "ssh": "autoresearch_mcp.server.compute.ssh.backend",
}


def open_compute(settings: "Settings", state: Path, log: Path) -> "Compute":
    """Open the backend that `lab.toml` names.

    Args:
        settings: The lab's settings.
        state: The lab's state folder.
        log: Where the launchers' own messages go.
    """
    backend: Compute = importlib.import_module(BACKENDS[settings.compute.backend]).open_backend(settings, state, log)
    return backend
