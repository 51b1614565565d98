"""What `init` offers where torch is missing: the exact command for this machine and this installation, run on a yes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.commands import asking, local_packages


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(local_packages, "is_installed", lambda name: name not in missing)


@pytest.mark.parametrize(("platform", "programs", "cpu"), [("linux", (), True), ("linux", ("nvidia-smi",), False), ("darwin", (), False)])
def test_the_command_takes_the_build_of_torch_for_this_machine(
    platform: str, programs: tuple[str, ...], cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
    line = local_packages.command()
    assert line[:4] == [sys.executable, "-m", "pip", "install"] and any(word.startswith("torch") for word in line)
    assert (local_packages.CPU_BUILD in line) is cpu and not any("extra" in word and word != "--extra-index-url" for word in line)


WHEEL = {"url": "file:///dist/ours.whl", "archive_info": {}}
REPOSITORY = {"url": "https://git.example/ours", "vcs_info": {"vcs": "git", "commit_id": "abc"}}


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (None, "autoresearch-mcp"),
        (WHEEL, "autoresearch-mcp @ file:///dist/ours.whl"),
        (REPOSITORY, "autoresearch-mcp @ git+https://git.example/ours@abc"),
    ],
)
def test_where_there_is_no_pip_uv_installs_and_what_uvx_throws_away_becomes_a_tool_from_where_it_came(
    origin: dict[str, object] | None, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "pip")
    assert local_packages.command()[1:4] == ["pip", "install", "--python"]
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "archive-v0" / "Xy"))
    requirements = local_packages.requirements()
    (tmp_path / "autoresearch_mcp-9.dist-info").mkdir()
    (tmp_path / "autoresearch_mcp-9.dist-info" / "METADATA").write_text("Name: autoresearch-mcp\nVersion: 9\n")
    if origin:
        (tmp_path / "autoresearch_mcp-9.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.setattr(local_packages, "requirements", lambda: requirements)
    monkeypatch.syspath_prepend(tmp_path)
    line = local_packages.command()
    assert line[1:3] == ["tool", "install"] and line[-1] == source and line.count("--with") == len(requirements)
    local_packages.offer(tmp_path / "lab", ask=False)  # torch or not: the lab's configuration names what goes
    assert f"autoresearch-mcp install claude-code {tmp_path / 'lab'}" in capsys.readouterr().out


def test_uv_is_asked_for_torch_alone_from_another_index(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pip")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    line = local_packages.command()
    assert line[line.index("--torch-backend") + 1] == "cpu" and local_packages.CPU_BUILD not in line


@pytest.mark.parametrize(("answer", "runs"), [(True, 1), (False, 0)])
def test_init_offers_it_and_runs_it_on_a_yes_alone(
    answer: bool, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "torch")
    lines: list[list[str]] = []
    real = subprocess.run

    def run(line: list[str], **options: Any) -> Any:
        if line != local_packages.command():
            return real(line, **options)
        lines.append(line)
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.setattr(local_packages.subprocess, "run", run)
    monkeypatch.setattr(asking, "yes", lambda question: answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert cli.main(["init", str(tmp_path / "lab")]) == 0
    assert len(lines) == runs and "torch" in capsys.readouterr().out and (tmp_path / "lab" / "lab.toml").exists()
