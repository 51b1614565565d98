"""A small real lab whose runner is the test: it holds the runner's lock, so nothing is trained unless a test says so."""

import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp.types import Implementation

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.models import ExperimentState
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.making import NewRepo
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.mcp.listening import served_over_http
from tests.server.mcp.pipe import SERVE

TRAIN = "WIDTH = 64\nDEPTH = 2\nRATE = 0.04\n\n\ndef train():\n    return WIDTH * DEPTH * RATE\n"


class FakeRunnerLab:
    """A lab of which the test is the runner."""

    def __init__(self, root: Path, changed: dict[str, str]) -> None:
        self.root = root
        root.mkdir()
        NewRepo.create(root).commit_files({"train.py": TRAIN.encode(), "notes.md": b"# Notes\n"}, "A lab")
        text = settings.template("small").replace("[training]\n", "[training]\nsmoke = false\n")
        for old, new in changed.items():
            assert old in text
            text = text.replace(old, new)
        LabPaths(root).settings.write_text(text, encoding="utf-8")
        state = LabPaths(root).state
        state.mkdir(exist_ok=True)
        self.state = state
        Lab(root).close()
        self.ledger = Ledger(state / "ledger.sqlite")

    def move(self, id: str, state: ExperimentState, **changes: object) -> None:
        """What a runner does to an experiment."""
        assert self.ledger.move(id, ["queued", "starting", "running", "scoring"], state=state, **changes) is not None

    def finish(self, id: str, val_bpb: float, conditions: str, by_lab: bool = False) -> None:
        self.ledger.keep_evidence(id, "landlock-7+seccomp", val_bpb, None)
        self.move(id, "finished", val_bpb=val_bpb, conditions=conditions, finished_at=1.0, started_at=0.5, by_lab=by_lab)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def make_runner_lab(root: Path, changed: dict[str, str] | None = None) -> Iterator[FakeRunnerLab]:
    """Make a lab whose lab.toml has these texts replaced, and hold its runner's lock."""
    runner_lab = FakeRunnerLab(root, changed or {})
    with runner_lock(runner_lab.state) as mine:
        assert mine
        yield runner_lab
    runner_lab.ledger.close()
    shutil.rmtree(root)


@pytest.fixture
def lab(runner_lab: FakeRunnerLab) -> Iterator[Lab]:
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        yield lab


@pytest.fixture(scope="module", params=["memory-auto", "memory-legacy", "stdio-auto", "stdio-legacy", "http-auto", "http-legacy"])
def connection(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runner_lab(connection: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


@pytest.fixture(scope="module")
async def client(connection: str, runner_lab: FakeRunnerLab) -> AsyncIterator[Client]:
    """The SDK's client, in both protocol eras: in memory, over a real pipe, and over a real socket."""
    transport, mode = connection.split("-")
    who = Implementation(name="Tester (v2)", version="1")
    if transport == "stdio":
        parameters = StdioServerParameters(command=sys.executable, args=["-W", "error", "-c", SERVE, str(runner_lab.root)], cwd=Path.cwd())
        async with Client(parameters, mode=mode, client_info=who) as connected:
            yield connected
    elif transport == "http":
        with served_over_http(runner_lab.root) as server:
            async with Client(server.url, mode=mode, client_info=who) as connected:
                yield connected
    else:
        with contextlib.closing(Lab(runner_lab.root)) as lab:
            async with Client(build_server(lab), mode=mode, client_info=who) as connected:
                yield connected
