"""A server loads the libraries of its first calls by itself, and what can't be loaded keeps it from nothing."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.mcp.warming import warmed_up
from autoresearch_mcp.server.models import Memory, new_id
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.search.embedding import EmbeddingsUnavailable
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.listening import served_over_http
from tests.waiting import until


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


def test_a_server_that_nobody_called_yet_has_what_the_first_calls_need(runner_lab: FakeRunnerLab) -> None:
    with served_over_http(runner_lab.root) as server:
        loaded = Path(f"/proc/{server.process.pid}/maps")
        until(lambda: all(name in loaded.read_text("utf-8") for name in ("tokenizers", "numpy")), 60)


class Broken:
    def warm_up_writing(self) -> None:
        raise RuntimeError("no such library")


def test_a_fault_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with warmed_up(cast(Lab, Broken())):
        until(lambda: caplog.text, 20)
    assert "not warmed up" in caplog.text and "no such library" in caplog.text


FIRST_CALLS = """
import sys
from pathlib import Path
from autoresearch_mcp.server.lab.lab import Lab

lab = Lab(Path(sys.argv[1]), starts_runner=False)
lab.warm_up_reading()
loaded = set(sys.modules)
assert {"deeplake", "tokenizers"} <= loaded, "nothing to load, so this proves nothing"
assert lab.search_memory("widths").memories and lab.query_experiments() and lab.status() and lab.read_file()
print(*sorted(set(sys.modules) - loaded))
"""


def test_no_first_question_waits_for_a_library(runner_lab: FakeRunnerLab) -> None:
    with contextlib.closing(EmbeddedLake(LabPaths(runner_lab.root).lake)) as lake:
        lake.append(
            "memories", [Memory(id=new_id("m"), author="ann", kind="finding", text="Wider is better: widths of 128.", created_at=1.0)]
        )
    first = subprocess.run([sys.executable, "-P", "-c", FIRST_CALLS, runner_lab.root], capture_output=True, text=True)
    assert (first.returncode, first.stdout.split(), first.stderr) == (0, [], "")


@pytest.mark.parametrize("local", [True, False])
def test_a_local_model_alone_is_asked_for_an_embedding(runner_lab: FakeRunnerLab, monkeypatch: pytest.MonkeyPatch, local: bool) -> None:
    asked = list[str]()

    def embed(texts: list[str]) -> object:
        asked.extend(texts)
        raise EmbeddingsUnavailable("not now")

    model = SimpleNamespace(name="a model", floor=0.0, local=local, embed=embed)
    monkeypatch.setattr("autoresearch_mcp.server.lab.core.open_embedder", lambda section: model)
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        lab.warm_up_reading()
    assert bool(asked) is local


def test_what_cannot_be_read_keeps_the_rest_from_nothing(runner_lab: FakeRunnerLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, read = Lab(runner_lab.root), list[str]()

    def refuse() -> None:
        read.append("file")
        raise LabError("There is no such file.", "unknown_path")

    monkeypatch.setattr(lab, "read_file", refuse)
    monkeypatch.setattr(lab, "search_memory", lambda query: read.append(f"memories of {query!r}"))
    lab.warm_up_reading()
    lab.close()
    assert read == ["file", "memories of 'words'"]
