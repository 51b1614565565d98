"""The secret that draws a lab's held-out split: made with the lab, kept from everybody, handed on by a command."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server import secret
from autoresearch_mcp.server.cli import main
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute import open_compute
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.settings import load
from autoresearch_mcp.trainer import heldout, prepare
from tests.server.harness import LabHarness


@pytest.fixture
def lab(tmp_path: Path) -> LabPaths:
    create_lab(tmp_path / "lab", profile="tiny")
    return LabPaths(tmp_path / "lab")


def status(*arguments: object) -> int:
    return main(["secret", *map(str, arguments)])


def test_a_new_lab_has_a_secret_that_no_repository_holds(lab: LabPaths) -> None:
    assert lab.secret.stat().st_mode & 0o777 == 0o600
    value = lab.secret.read_text(encoding="utf-8").strip()
    listed = subprocess.run(["git", "-C", lab.root, "status", "--porcelain", "--ignored"], capture_output=True, text=True, check=True)
    assert listed.stdout == "!! .autoresearch/\n"
    everything = subprocess.run(["git", "-C", lab.root, "grep", "-c", value, "main"], capture_output=True, text=True, check=False)
    assert everything.returncode == 1, "not in any file"


def test_two_labs_have_two_secrets_until_one_is_handed_on(lab: LabPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_lab(tmp_path / "other", profile="tiny")
    assert status("show", lab.root) == status("show", tmp_path / "other") == 0
    one, other = capsys.readouterr().out.splitlines()
    assert one != other and lab.secret.read_text(encoding="utf-8").strip() not in one
    file = tmp_path / "handed.secret"
    assert status("export", file, lab.root) == 0 and file.stat().st_mode & 0o777 == 0o600
    assert status("import", file, tmp_path / "other") == 0
    assert LabPaths(tmp_path / "other").secret.stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    assert status("show", tmp_path / "other") == 0
    assert capsys.readouterr().out.splitlines() == [one]
    assert status("import", file, tmp_path / "other") == 0, "again, which changes nothing"


def test_an_export_overwrites_nothing(lab: LabPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    assert status("export", tmp_path / "mine", lab.root) == 2
    assert "exists already" in capsys.readouterr().err and (tmp_path / "mine").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("content", ["", "f" * 63, "not a secret", "00" * 64])
def test_what_is_no_secret_is_not_imported(lab: LabPaths, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text(content, encoding="utf-8")
    before = lab.secret.read_bytes()
    assert status("import", tmp_path / "file", lab.root) == 2 and status("import", tmp_path / "missing", lab.root) == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err and lab.secret.read_bytes() == before


def test_results_are_not_cut_off_from_later_ones_by_accident(
    cache: Path, make_lab: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness = LabHarness(make_lab())
    with runner_lock(harness.state):  # no other runner is at work when the secret is imported
        harness.launch()
    harness.drive()
    path = LabPaths(harness.root).secret
    secret.ensure(path)
    secret.write(tmp_path / "other", bytes(heldout.SECRET_BYTES))
    assert status("import", tmp_path / "other", harness.root) == 2
    assert "--replace" in capsys.readouterr().err
    assert status("import", tmp_path / "other", harness.root, "--replace") == 0
    assert secret.read(path) == bytes(heldout.SECRET_BYTES)
    harness.close()


def test_trainings_here_get_what_the_secret_draws_or_the_public_split_where_lab_toml_says_so(lab: LabPaths, cache: Path) -> None:
    compute = open_compute(load(lab.root), lab.state, lab.runner_log)

    async def prepared() -> Path:
        try:
            return Path(await compute.prepare())
        finally:
            await compute.close()

    assert anyio.run(prepared) == heldout.drawn_dir(prepare.data_dir("tiny"), secret.read(lab.secret))
    lab.settings.write_text(lab.settings.read_text(encoding="utf-8").replace('heldout = "secret"', 'heldout = "public"'), encoding="utf-8")
    compute = open_compute(load(lab.root), lab.state, lab.runner_log)
    assert anyio.run(prepared) == prepare.data_dir("tiny")


def test_a_lab_of_before_gets_a_secret_with_its_next_training(lab: LabPaths, cache: Path) -> None:
    lab.secret.unlink()
    compute = open_compute(load(lab.root), lab.state, lab.runner_log)

    async def prepared() -> Path:
        try:
            return Path(await compute.prepare())
        finally:
            await compute.close()

    assert anyio.run(prepared).name.endswith(secret.fingerprint(lab.secret)) and lab.secret.stat().st_mode & 0o777 == 0o600
