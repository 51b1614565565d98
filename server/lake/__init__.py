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
    """The lab's lake, unopened: the folder `state/lake`, synchronised with Deeplake's managed tables where `[lake] backend` says so.

    `embedder` gives the notes that are written their vectors.

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
    """Whether this process shares its log through the service."""
    if settings.lake.backend == "managed" and not os.environ.get(KEY):
        raise LabError(
            f'lab.toml: [lake] backend is "managed", which needs {KEY} in the environment of this process: '
            "for a server, in its entry of the MCP client's configuration.",
            "bad_settings",
        )
    return settings.lake.backend != "embedded" and bool(os.environ.get(KEY))


def default_prefix(name: str) -> str:
    """Of the tables of a lab: machines whose labs have the same name share one log."""
    return (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:30] or "lab") + "_"
