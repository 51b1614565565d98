"""Opening a lab: where it can't be written, where no runner can start, and where nothing is confined."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab import preflight
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.runner.lock import stop_runner
from tests.server.measured import refusal


def test_what_was_recorded_is_acknowledged_even_if_no_runner_can_start(lab_root: Path) -> None:
    lab = Lab(lab_root)
    log = lab_root / ".autoresearch" / "runner.log"
    log.mkdir()  # where a runner's log should be
    (id,) = lab.launch_training("champion", "ada").experiments
    assert [line.id for line in lab.status().queued] == [id] and not lab.status().runner
    log.rmdir()
    assert lab.status().runner
    lab.cancel("ada", [id])
    lab.close()


def test_a_state_folder_that_cannot_be_made_is_named(lab_root: Path) -> None:
    stop_runner(lab_root / ".autoresearch")
    subprocess.run(["rm", "-rf", str(lab_root / ".autoresearch")], check=True)
    (lab_root / ".autoresearch").write_text("in the way", encoding="utf-8")
    assert refusal(lambda: Lab(lab_root)).code == "read_only"
    (lab_root / ".autoresearch").unlink()


_OPEN = """
import os, sys
from pathlib import Path
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    Lab(Path(sys.argv[1]))
except LabError as error:
    print(error.code, error)
"""


def test_a_lab_that_this_user_may_only_read_is_refused_in_a_sentence(lab_root: Path) -> None:
    stop_runner(lab_root / ".autoresearch")
    for directory in [lab_root, *lab_root.parents[:-1]]:
        directory.chmod(directory.stat().st_mode | 0o055)
    for path in (lab_root / ".autoresearch").rglob("*"):
        path.chmod(0o555)
    (lab_root / ".autoresearch").chmod(0o555)
    ran = subprocess.run([sys.executable, "-c", _OPEN, str(lab_root)], capture_output=True, text=True, env=dict(os.environ))
    assert ran.stdout.startswith("read_only"), ran.stderr
    assert "Make it writable" in ran.stdout
    for path in [lab_root / ".autoresearch", *(lab_root / ".autoresearch").rglob("*")]:
        path.chmod(0o755)


def test_on_a_machine_without_a_sandbox_the_lab_says_so_and_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.trainer.sandbox.level", lambda: "unsandboxed")
    preflight.confined.cache_clear()
    try:
        create_lab(tmp_path / "lab", profile="tiny", budget_s=1.0)
        with contextlib.closing(Lab(tmp_path / "lab")) as lab:  # made here, so made to count
            assert lab.settings.promotion.unsandboxed == "allow"
            assert any("not confined" in warning and "count at the gate" in warning for warning in lab.status().warnings)
        settings = tmp_path / "lab" / "lab.toml"
        settings.write_text(settings.read_text("utf-8").replace('unsandboxed = "allow" ', 'unsandboxed = "refuse"'), "utf-8")
        with contextlib.closing(Lab(tmp_path / "lab")) as lab:
            assert any("nothing trained here can be promoted" in warning for warning in lab.status().warnings)
    finally:
        preflight.confined.cache_clear()
