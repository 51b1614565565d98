"""Each training has cores of its own while there are enough."""

import os
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.trainer import cores
from autoresearch_mcp.trainer.cores import Cores


@pytest.mark.skipif(sys.platform != "linux", reason="no other system here has affinities")
def test_cores_are_claimed_once_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "FOLDER", tmp_path / "cores")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4})
    siblings = {"0": "0,4", "1": "1", "4": "0,4"}
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: siblings[self.parent.parent.name.removeprefix("cpu")])
    one, two, three = Cores(1), Cores(1), Cores(1)
    assert one.claim() == {0, 4}, "both threads of a physical core"
    assert Cores(2).claim() == frozenset(), "two are not free"
    assert two.claim() == {1} and three.claim() == frozenset()
    one.release()
    assert three.claim() == {0, 4} and Cores(0).claim() == frozenset()


def test_a_folder_of_somebody_else_leaves_threads_where_they_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(cores, "FOLDER", tmp_path / "link")
    assert Cores(1).claim() == frozenset()
