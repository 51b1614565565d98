"""A server loads the libraries of its first calls by itself, and what can't be loaded keeps it from nothing."""

from pathlib import Path
from typing import cast

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.warming import warmed_up
from tests.server.mcp.conftest import FakeRunnerLab
from tests.server.mcp.listening import served_over_http
from tests.waiting import until


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


def test_what_cannot_be_read_keeps_the_rest_from_nothing(runner_lab: FakeRunnerLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, read = Lab(runner_lab.root), list[str]()

    def refuse() -> None:
        read.append("file")
        raise LabError("There is no such file.", "unknown_path")

    monkeypatch.setattr(lab, "read_file", refuse)
    monkeypatch.setattr(lab, "search_memory", lambda query: read.append(f"memories of {query!r}"))
    lab.warm_up_reading()
    lab.close()
    assert read == ["file", "memories of ''"]
