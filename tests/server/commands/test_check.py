"""`check`: what an agent would hit is told before one does, by itself, at init and in the doctor."""

import builtins
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli


def repository(root: Path, code: str, ignored: str = "") -> Path:
    root.mkdir()
    (root / "train.py").write_text(code, encoding="utf-8")
    if ignored:
        (root / ".gitignore").write_text(f"{ignored}\n", encoding="utf-8")
        (root / ignored).write_text("1\n", encoding="utf-8")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Train"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    return root


def test_init_offers_to_train_for_a_few_seconds_and_says_what_stands_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = repository(tmp_path / "source", 'x = open("data.txt").read()\nprint("val_loss:", x)\n', ignored="data.txt")
    asked: list[str] = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(builtins, "input", lambda question: asked.append(question) or "")
    lab = tmp_path / "lab"
    assert cli.main(["init", str(lab), "--from-repo", str(source), "--metric", "val_loss", "--profile", "tiny"]) == 0
    out = capsys.readouterr().out
    assert asked == ["Do that now? [Y/n] "]
    assert "BAD   code: `python train.py` failed: FileNotFoundError" in out and "train.py:1" in out
    assert "name it as [training] data in lab.toml" in out


def test_the_doctor_trains_too_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = repository(tmp_path / "source", 'print("val_loss: 0.25")\n')
    lab = tmp_path / "lab"
    assert cli.main(["init", str(lab), "--from-repo", str(source), "--metric", "val_loss", "--profile", "tiny"]) == 0
    capsys.readouterr()
    assert cli.main(["doctor", "--train", str(lab)]) == 0
    out = capsys.readouterr().out
    assert "ok    code: `python train.py` came to its end" in out and "ok    metric: val_loss is 0.25" in out and "ok    memory: " in out
    assert cli.main(["check", str(lab), "--seconds", "0"]) == 2
