"""An account of the lab's own: an agent with a shell under another one works through HTTP, and reads nothing of the lab's state."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.commands.doctor import examine
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.paths import LabPaths
from tests.server.mcp.conftest import TRAIN, FakeRunnerLab, make_runner_lab
from tests.server.mcp.test_git import git

LAB, AGENT = f"armcp-lab-{os.getpid()}", f"armcp-ada-{os.getpid()}"
CAPABLE = sys.platform.startswith("linux") and os.geteuid() == 0 and all(map(shutil.which, ("useradd", "userdel", "setpriv", "git")))
# The lab's account runs this test's interpreter, wherever it is; the agent's has nothing but itself
READS_ALL = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")

two_accounts = pytest.mark.skipif(not CAPABLE, reason="takes root, useradd and setpriv to make two accounts")


@pytest.fixture
def lab() -> Iterator[FakeRunnerLab]:
    place = Path(tempfile.mkdtemp(prefix="accounts-", dir="/tmp"))
    place.chmod(0o755)
    yield from make_runner_lab(place / "lab")
    place.rmdir()


@pytest.fixture
def agent() -> Iterator[Path]:
    """The home of an agent's account."""
    home = Path("/tmp") / AGENT
    subprocess.run(["useradd", "--create-home", "--home-dir", str(home), AGENT], check=True)
    yield home
    for user in (AGENT, LAB):
        subprocess.run(["userdel", "--remove", user], capture_output=True)
    shutil.rmtree(Path("/var/lib") / LAB, ignore_errors=True)


def command_as(user: str, *options: str) -> list[str]:
    account = pwd.getpwnam(user)
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", *options]


def as_agent(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_TERMINAL_PROMPT": "0"}
    return subprocess.run([*command_as(AGENT), *command], cwd=home, env=environment, capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def served_by_its_account(root: Path) -> Iterator[str]:
    serve = [sys.executable, "-m", "autoresearch_mcp.server.cli", "serve", str(root), "--http", "127.0.0.1:0"]
    environment = {**os.environ, "HOME": f"/var/lib/{LAB}"}
    with subprocess.Popen([*command_as(LAB, *READS_ALL), *serve], stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1].removesuffix("/mcp")
        finally:
            process.kill()


@two_accounts
def test_the_agents_account_reads_nothing_of_the_labs_and_moves_its_own_branch(
    lab: FakeRunnerLab, agent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["setup", "account", str(lab.root), "--user", LAB, "--agent", "ada"]) == 0
    out = capsys.readouterr().out
    token = re.search(r"http://ada:(\S+)@", out)
    assert token and "sudo -u" in out
    assert cli.main(["setup", "account", str(lab.root), "--user", LAB, "--agent", "ada"]) == 0
    assert "http://ada:" not in capsys.readouterr().out  # the token that it has stays
    assert [each.grade for each in examine(lab.root) if each.name == "account"] == ["ok"]
    for path in (LabPaths(lab.root).ledger, LabPaths(lab.root).settings, lab.root / ".git" / "HEAD", lab.root, Path("/var/lib") / LAB):
        assert "Permission denied" in as_agent(agent, "ls", "-l", f"{path}/.").stderr, path
        assert as_agent(agent, "cat", str(path)).returncode != 0
    with served_by_its_account(lab.root) as url:
        remote = url.replace("//", f"//ada:{token[1]}@") + "/git"
        assert as_agent(agent, "git", "clone", "-q", remote, "work").returncode == 0
        work = agent / "work"
        as_agent(agent, "sh", "-c", "sed -i s/64/128/ work/train.py")
        who = ["git", "-C", str(work), "-c", "user.name=ada", "-c", "user.email=a@b"]
        assert as_agent(agent, *who, "commit", "-qam", "A wider model has more room to learn in.").returncode == 0
        before = git(lab.root, "-c", "safe.directory=*", "rev-parse", "research")
        assert "alone" in as_agent(agent, *who, "push", "origin", "HEAD:refs/heads/research").stderr
        assert as_agent(agent, *who, "push", "-q", "origin", "HEAD:refs/heads/agents/ada/1").returncode == 0
        assert as_agent(agent, "ls", "-l", str(LabPaths(lab.root).git)).returncode != 0
    with contextlib.closing(Lab(lab.root)) as opened:
        assert opened.champion() == before
        proposed = opened.propose_patch(hypothesis="", author="ada", ref="agents/ada/1")
        assert opened.read_file("train.py", proposed.commit).text == TRAIN.replace("64", "128")


def test_what_it_would_do_is_shown_and_nothing_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_runner_lab(tmp_path / "lab")
    lab = next(made)
    mode = lab.root.stat().st_mode
    command = ["setup", "account", str(lab.root), "--agent", "ada", "--dry-run"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "ExecStart=" in out and f"serve {lab.root} --http 127.0.0.1:8765" in out and "User=autoresearch" in out
    assert not lab.ledger.tokens() and lab.root.stat().st_mode == mode
    assert [each.grade for each in examine(lab.root) if each.name == "account"] == ["note"]
    with contextlib.suppress(StopIteration):
        next(made)
