"""`try`: code of a work tree trains for a moment before it is proposed, and says what is wrong with it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.lab import trying
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.roles import Role
from autoresearch_mcp.trainer import files
from tests.server.commands.test_check import repository
from tests.server.mcp.listening import served_over_http

FINE = 'for step in range(20):\n    print(f"step {step} val_loss: {1 / (step + 1):.4f}", flush=True)\n'
FILLING = """
from itertools import count

for number in count():
    with open(f"{number}.bin", "wb") as file:
        file.write(bytes(5 << 20))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("try")
    source = repository(place / "source", {"train.py": FINE})
    root = place / "lab"
    assert cli.main(["init", str(root), "--from-repo", str(source), "--metric", "val_loss", "--profile", "tiny"]) == 0
    return root


@pytest.fixture
def tree(lab: Path, tmp_path: Path) -> Path:
    assert cli.main(["checkout", "champion", str(tmp_path / "ada"), "--author", "ada", "--lab", str(lab)]) == 0
    return tmp_path / "ada"


@contextlib.contextmanager
def setting(lab: Path, section: str, text: str) -> Iterator[None]:
    file = LabPaths(lab).settings
    before = file.read_text(encoding="utf-8")
    file.write_text(before.replace(section, f"{section}\n{text}"), encoding="utf-8")
    yield
    file.write_text(before, encoding="utf-8")


def test_what_is_edited_is_tried_before_it_is_committed(lab: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "train.py").write_text("import json\n\njson.nothing()\n", encoding="utf-8")
    (tree / "notes.md").write_text("Mine.\n", encoding="utf-8")
    assert cli.main(["try", str(tree)]) == 1
    out = capsys.readouterr().out
    assert "AttributeError" in out and "train.py:3" in out and "not editable" in out and "notes.md" in out
    (tree / "train.py").write_text(FINE, encoding="utf-8")
    assert cli.main(["try", str(tree), "--seconds", "10"]) == 0
    assert "came to its end" in (out := capsys.readouterr().out) and "ok    memory: " in out and "ok    start: " in out
    with contextlib.closing(Ledger(LabPaths(lab).ledger)) as ledger:
        assert not ledger.open_experiments() and not ledger.recorded_changes("ada")


def test_code_that_never_starts_or_forks_without_end_is_ended(
    lab: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trying, "MOST_WALL_S", 3.0)
    (tree / "train.py").write_text("import os\nwhile True:\n    os.fork()\n", encoding="utf-8")
    cli.main(["try", str(tree), "--seconds", "1"])
    assert "code: `python train.py`" in capsys.readouterr().out
    assert not any(LabPaths(lab).short_runs.iterdir())
    (tree / "train.py").write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    cli.main(["try", str(tree), "--seconds", "1"])
    assert "still trained after 1 s" in capsys.readouterr().out
    assert not any(LabPaths(lab).short_runs.iterdir())


def test_code_that_would_fill_the_disk_is_ended_and_what_it_wrote_is_gone(
    lab: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "train.py").write_text(FILLING, encoding="utf-8")
    with setting(lab, "[training]", "max_file_mb = 30"):
        assert cli.main(["try", str(tree), "--seconds", "10"]) == 1
    assert "the run holds" in (out := capsys.readouterr().out) and "30 MB are allowed" in out, out
    assert not any(LabPaths(lab).short_runs.iterdir())


def test_one_is_tried_at_a_time_and_none_where_the_owner_wants_none(lab: Path, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LabPaths(lab).try_lock.open("a") as held:
        assert files.try_lock(held)
        assert cli.main(["try", str(tree)]) == 2 and "one at a time" in capsys.readouterr().err
    with setting(lab, "[compute]", "try = false"):
        assert cli.main(["try", str(tree)]) == 2 and "[compute] try is false" in capsys.readouterr().err
    assert cli.main(["pause", str(lab)]) == 0 and cli.main(["try", str(tree)]) == 2 and "paused" in capsys.readouterr().err
    assert cli.main(["resume", str(lab)]) == 0
    assert cli.main(["try", str(tree), "--seconds", "60"]) == 2 and "up to 10" in capsys.readouterr().err
    (tree / "train.py").unlink()
    (tree / "train.py").symlink_to("/etc/passwd")
    assert cli.main(["try", str(tree)]) == 2 and "no file of text" in capsys.readouterr().err
    assert cli.main(["try", str(lab.parent)]) == 2 and "no work tree" in capsys.readouterr().err


def test_a_clone_is_tried_where_it_was_cloned_from(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(Ledger(LabPaths(lab).ledger)) as ledger:
        ada, vera = ledger.add_token("ada", Role.WORKER, None), ledger.add_token("vera", Role.VIEWER, None)
    clone = tmp_path / "clone"
    with served_over_http(lab) as server:
        remote = server.url.removesuffix("mcp") + "git"
        for token in (ada, vera):
            url = remote.replace("//", f"//x:{token}@")
            if not clone.exists():
                subprocess.run(["git", "clone", "-q", url, str(clone)], check=True)
                (clone / "train.py").write_text("nothing\n", encoding="utf-8")
            subprocess.run(["git", "remote", "set-url", "origin", url], cwd=clone, check=True)
            status = cli.main(["try", str(clone)])
            out, err = capsys.readouterr()
            assert (status, "NameError" in out, "role worker" in err) == ((1, True, False) if token == ada else (2, False, True)), (
                out,
                err,
            )
        assert str(lab) not in out
