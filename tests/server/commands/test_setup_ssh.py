"""`setup ssh`: this program on a machine behind a real sshd, where pip has no network and installs nothing else."""

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.cli import main
from autoresearch_mcp.server.commands.doctor import examine
from autoresearch_mcp.server.compute.line.install_there import install
from autoresearch_mcp.server.compute.line.transport import HostRefused, Ssh
from autoresearch_mcp.server.compute.ssh.host import SENT
from autoresearch_mcp.server.lab import preflight
from autoresearch_mcp.trainer import prepare
from tests.standins.sshd import Hosts
from tests.waiting import until


def test_a_host_gets_this_program_over_another_version_of_it_and_says_what_it_lacks(
    ssh_hosts: Hosts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    request = {
        "lab": "l",
        "folder": "~/labs",
        "fixed": prepare.fixed_hash(),
        "launch": [],
        "adopt": [],
        "cancel": [],
        "look": {},
        "remove": [],
        "list": True,
    }
    ours = ssh_hosts.home("bare") / ".autoresearch-mcp" / "venv"
    ended = main(["setup", "ssh", "bare", "--python", sys.executable])
    text = capsys.readouterr().out
    assert f"is in {ours}" in text and "bare has this program for" in text
    assert ended == ("which lacks " in text or "doesn't confine" in text)
    assert anyio.run(Ssh("bare", "", ssh_hosts.ssh).ask, request, 60.0, SENT)["there"] == []
    (changed,) = ours.glob("lib/python*/site-packages/autoresearch_mcp/trainer/score.py")
    changed.write_text("# of another version\n", encoding="utf-8")
    with pytest.raises(HostRefused, match=r"another version .*Run `autoresearch-mcp setup ssh bare`"):
        anyio.run(Ssh("bare", "", ssh_hosts.ssh).ask, request, 60.0, SENT)
    assert main(["setup", "ssh", "bare"]) == ended
    assert anyio.run(Ssh("bare", "", ssh_hosts.ssh).ask, request, 60.0, SENT)["there"] == []
    assert subprocess.run([ours / "bin" / "autoresearch-mcp", "--version"], capture_output=True, check=True).stdout.startswith(
        b"autoresearch-mcp "
    )


def test_what_is_no_host_or_has_no_python_is_refused_and_a_dry_run_does_nothing(
    ssh_hosts: Hosts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    assert main(["setup", "ssh"]) != 0 and main(["setup", "ssh", "a b"]) != 0
    assert main(["setup", "ssh", "other", "--dry-run"]) == 0
    assert not (ssh_hosts.home("other") / ".autoresearch-mcp" / "venv" / "pyvenv.cfg").exists()
    assert main(["setup", "ssh", "box", "--python", "/no/such/python"]) != 0
    assert "on box: there is no Python 3.11 or newer there at /no/such/python.\n" in capsys.readouterr().err


def test_an_environment_that_could_not_be_made_is_not_left_for_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    python = tmp_path / "debians"
    python.write_text(
        f"""#!/bin/sh
[ "$2" = venv ] || exec '{sys.executable}' "$@"
mkdir -p "$4/bin" && ln -s '{sys.executable}' "$4/bin/python"
echo "The virtual environment was not created successfully because ensurepip is not available."
echo "Failing command: $4/bin/python"
exit 1
""",
        encoding="utf-8",
    )
    python.chmod(0o755)
    failed = install(str(python), "nothing.whl", "")["failed"]
    assert failed.startswith(f"{python} could make no environment there, as it lacks ensurepip (Debian: apt install python3-venv): Failing")
    assert not (tmp_path / ".autoresearch-mcp" / "venv").exists()


def test_a_program_that_trainings_or_jobs_use_is_not_replaced_under_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ours, squeue = tmp_path / ".autoresearch-mcp" / "venv" / "bin" / "python", tmp_path / "squeue"
    ours.parent.mkdir(parents=True)
    ours.symlink_to(sys.executable)
    there = [str(ours), "-c", "input()", "-m", "autoresearch_mcp.trainer.launch", str(tmp_path)]
    squeue.write_text("#!/bin/sh\necho ar-0a1b2c3d-e-1-1\necho another\n", encoding="utf-8")
    squeue.chmod(0o755)
    why = ", and would find another program in the middle. Let them end or cancel them, then run this again"
    with subprocess.Popen(there, stdin=subprocess.PIPE) as training:
        until(lambda: b"trainer.launch" in Path(f"/proc/{training.pid}/cmdline").read_bytes())
        assert install("", "nothing.whl", "")["failed"] == f"the program there is in use by 1 training{why}"
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert install("", "nothing.whl", "")["failed"] == f"the program there is in use by 1 training and 1 job{why}"
        training.communicate(b"\n")
    assert install("", "nothing.whl", "")["failed"] == f"the program there is in use by 1 job{why}"
    assert not (tmp_path / ".autoresearch-mcp" / "nothing.whl").exists()


def test_doctor_looks_at_each_host_and_says_what_mends_it(
    ssh_hosts: Hosts, make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    root = make_lab("far-lab", {'backend = "local"': 'backend = "ssh"\nhosts = ["box:0", "other", "nowhere"]'})
    with (root / "lab.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n[compute.ssh.box]\npython = '{sys.executable}'\n\n[compute.ssh.other]\npython = '/no/such/python'\n")
    monkeypatch.setattr(preflight, "missing_packages", lambda: ["torch"])  # nothing trains on this machine
    findings = examine(root)
    assert not {"trainer", "data"} & {finding.name for finding in findings}
    assert preflight.preflight_error(settings.load(root), root) == ""
    box, other, nowhere = (finding for finding in findings if finding.name == "ssh")
    assert box.text.startswith(f"box has this program for {sys.executable}, and Linux ") or "doesn't confine" in box.text
    assert other.bad and "other can't be used: no Python can be started there" in other.text and "[compute.ssh.other]" in other.hint
    assert nowhere.bad and "nowhere is away" in nowhere.text and nowhere.hint == "`ssh nowhere true` has to work without a question."


def test_what_is_packed_names_itself_also_where_a_clones_own_folder_comes_first(tmp_path: Path) -> None:
    info = tmp_path / "autoresearch_mcp.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: autoresearch-mcp\nVersion: 9.9.9\n", encoding="utf-8")
    pack = "from autoresearch_mcp.server.compute.line.wheel import pack; import sys; sys.stdout.buffer.write(pack()[1])"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    packed = subprocess.run([sys.executable, "-P", "-c", pack], env=environment, capture_output=True, check=True).stdout
    with zipfile.ZipFile(io.BytesIO(packed)) as wheel:
        assert b"Version: 9.9.9" in wheel.read("autoresearch_mcp-9.9.9.dist-info/METADATA")
