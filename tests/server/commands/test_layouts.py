"""A user's repository becomes a lab that trains, whatever its packages are called, and no folder of the user's gains a file."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.runner.lock import stop_runner
from tests.server.harness import LabHarness
from tests.trainer.conftest import BIGRAM
from tests.waiting import until

pytestmark = pytest.mark.slow

# name -> what train.py imports, and the files that this takes
LAYOUTS = {
    "own trainer": ("from trainer.net import WIDTH", ["trainer/__init__.py", "trainer/net.py"]),
    "src": (
        "import pathlib, sys; sys.path.insert(0, str(pathlib.Path(__file__).parent / 'src')); from bigrams.net import WIDTH",
        ["src/bigrams/__init__.py", "src/bigrams/net.py"],
    ),
    "server and tests": (
        "from server.net import WIDTH; from tests.helper import WIDTH as SAME; from contracts import WIDTH as TOO",
        ["server/__init__.py", "server/net.py", "tests/__init__.py", "tests/helper.py", "contracts/__init__.py"],
    ),
}
CODE = {
    "verified": BIGRAM.replace("# before submit", "assert WIDTH == 3"),
    "reported": "print(f'val_bpb: {WIDTH / 2}')\n",
}


def git(root: Path, *args: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org", *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CODE)
def metric(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def repository(layout: str, metric: str, tmp_path: Path) -> Path:
    root = tmp_path / "mine"
    root.mkdir()
    git(root, "init", "-q")
    imports, files = LAYOUTS[layout]
    for path in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("WIDTH = 3\n", encoding="utf-8")
    (root / "train.py").write_text(f"{imports}\n{CODE[metric]}", encoding="utf-8")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "Mine")
    return root


@pytest.fixture
def harness(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabHarness]:
    root = tmp_path / "lab"
    create_lab(root, repository, profile="tiny", budget_s=20.0)
    monkeypatch.chdir(root)  # as a client starts its server
    with contextlib.closing(LabHarness(root)) as harness:
        yield harness
    stop_runner(root / ".autoresearch")


def test_it_trains_and_its_folders_stay_as_they_were(harness: LabHarness, repository: Path, metric: str) -> None:
    for folder in {path.split("/")[0] for path in git(repository, "ls-files").split() if "/" in path}:
        assert git(harness.root, "ls-files", folder) == git(repository, "ls-files", folder)
    assert git(harness.root, "diff", "--stat", "HEAD^", "--", "train.py") == ""
    (id,) = harness.launch()
    until(lambda: harness.ended([id]), 180)
    answer = harness.lab.get_experiment(id)
    assert answer.experiment.state == "finished", answer.failure
    assert (answer.experiment.val_bpb is not None, answer.experiment.reported_bpb) == (
        (True, None) if metric == "verified" else (False, 1.5)
    )
