"""What the tests of proposals share."""

from pathlib import Path

import pytest

from autoresearch_mcp.server.proposals.making import NewRepo
from autoresearch_mcp.server.proposals.repo import Repo
from tests.server.proposals.helpers import TRAIN


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    root = tmp_path / "lab"
    root.mkdir()
    repo = NewRepo.create(root)
    repo.commit_files({"train.py": TRAIN, "trainer/score.py": b"fixed = 1\n", "model/net.py": b"layers = 3\n"}, "Set up")
    return Repo(root, ("train.py", "model/**"))
