"""Where finished experiments, memories and promotions live: one place decides which store a lab has."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import StatePaths

if TYPE_CHECKING:
    from autoresearch_mcp.server.lake.base import Lake
    from autoresearch_mcp.server.search.embedding import Embedder
    from autoresearch_mcp.server.settings import Settings

KEY = "DEEPLAKE_API_KEY"


def open_lake(settings: "Settings", state: Path, embedder: "Embedder | None" = None) -> "Lake":
    """Make the lab's lake without opening it.

    Args:
        settings: `[lake] backend` decides between the folder alone and Deeplake's managed tables with a copy in the folder.
        state: the lab's folder `.autoresearch`; the lake is the folder `lake` in it.
        embedder: gives a vector to each memory that is written; without one they have none.

    Raises:
        LabError: `bad_settings`, where the managed tables are asked for and DEEPLAKE_API_KEY or the address is not usable.
    """
    if is_managed(settings):
        from autoresearch_mcp.server.lake.managed.service import Service
        from autoresearch_mcp.server.lake.managed.store import ManagedLake

        service = Service.from_environment(settings.lake.workspace)
        return ManagedLake(StatePaths(state).lake, service, settings.lake.tables or default_prefix(settings.lab.name), embedder)
    from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake

    return EmbeddedLake(StatePaths(state).lake, embedder)


def is_managed(settings: "Settings") -> bool:
    """Return whether this process shares its log through Deeplake's service.

    Raises:
        LabError: `bad_settings`, where it should and has no key.
    """
    if settings.lake.backend == "managed" and not os.environ.get(KEY):
        raise LabError(
            f'lab.toml: [lake] backend is "managed", which needs {KEY} in the environment of this process: '
            "for a server, in its entry of the MCP client's configuration.",
            "bad_settings",
        )
    return settings.lake.backend != "embedded" and bool(os.environ.get(KEY))


def default_prefix(name: str) -> str:
    """Return the prefix of the tables of a lab with this name. Labs of the same name on several machines share one log."""
    return (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:30] or "lab") + "_"
