"""The stores that one test body runs over."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.lake.base import Lake
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.lake.managed.service import Service
from autoresearch_mcp.server.lake.managed.store import ManagedLake
from autoresearch_mcp.server.lake.schema import SCHEMA_VERSION, TABLES
from tests.standins.deeplake.server import ORG, TOKEN, DeeplakeStandIn


@pytest.fixture
def deeplake(postgres_dsn: str) -> Iterator[DeeplakeStandIn]:
    """The service, with a workspace that no other test uses: see `workspace`."""
    importlib.import_module("deeplake.managed")  # slow where the machine is busy; no test is about that
    standin = DeeplakeStandIn(postgres_dsn)
    yield standin
    standin.close()
    assert standin.problems == []


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    return tmp_path.name


@pytest.fixture
def machine(deeplake: DeeplakeStandIn, workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ManagedLake]:
    """Makes the lake of another machine, with its own copy; every read looks at the service."""
    monkeypatch.setattr("autoresearch_mcp.server.lake.managed.store.SYNC_EVERY_S", 0.0)

    def make(name: str, token: str = TOKEN) -> ManagedLake:
        return ManagedLake(tmp_path / name, Service(token, workspace, ORG, deeplake.url), "lab_")

    return make


@pytest.fixture
def version_before() -> Iterator[pytest.MonkeyPatch]:
    """A schema without the columns that versions 2 and 3 brought, until `undo`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("started_at", "steps", "memory_mb"):
            patch.delitem(TABLES["experiments"], name)
        patch.delitem(TABLES["memories"], "meaning")
        for module in ("schema", "embedded.dataset", "managed.store"):
            patch.setattr(f"autoresearch_mcp.server.lake.{module}.SCHEMA_VERSION", SCHEMA_VERSION - 1)
        yield patch


@pytest.fixture(params=["embedded", "managed"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Lake]:
    """One more lake on the same records: a second process' for the folder, a second machine's for the managed tables."""
    if request.param == "embedded":
        return lambda: EmbeddedLake(tmp_path / "lake")
    machine: Callable[[str], ManagedLake] = request.getfixturevalue("machine")
    machines = iter(range(100))
    return lambda: machine(f"machine-{next(machines)}")


@pytest.fixture
def lake(another: Callable[[], Lake]) -> Lake:
    return another()
