"""Requests over a real sshd: what comes back, and what is said where a host can't be reached or used."""

import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from pydantic import ValidationError

from autoresearch_mcp.server.compute.line.transport import HostAway, HostRefused, Ssh
from autoresearch_mcp.server.compute.ssh.host import SENT
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.server.settings.ssh import HostSection
from autoresearch_mcp.trainer import prepare
from tests.standins.sshd import Hosts

NOTHING = {"launch": [], "adopt": [], "cancel": [], "look": {}, "remove": [], "list": True}


def ask(ssh: Ssh, timeout_s: float = 30.0, fixed: str = "", folder: str = "~/labs") -> list[str]:
    request = {"lab": "of-a-test", "folder": folder, "fixed": fixed or prepare.fixed_hash(), **NOTHING}
    answer = anyio.run(ssh.ask, request, timeout_s, SENT)
    return list(answer["there"])


@pytest.fixture
def configured(ssh_hosts: Hosts, tmp_path: Path) -> Callable[[str], str]:
    """Makes an ssh whose configuration begins with these lines."""

    def make(lines: str) -> str:
        config, program = tmp_path / "config", tmp_path / "ssh"
        config.write_text(f"{lines}\nInclude {ssh_hosts.config}\n", encoding="utf-8")
        program.write_text(f'#!/bin/sh\nexec ssh -F {config} -o ControlPath=none "$@"\n', encoding="utf-8")
        program.chmod(0o755)
        return str(program)

    return make


@pytest.mark.parametrize("host", ["box", "other"])
def test_a_banner_a_shell_that_is_not_bash_and_a_home_with_a_blank_do_no_harm(ssh_hosts: Hosts, host: str) -> None:
    assert ask(Ssh(host, sys.executable, ssh_hosts.ssh)) == []
    assert (ssh_hosts.home(host) / "labs" / "lab-of-a-test").stat().st_mode & 0o077 == 0


def test_a_host_key_that_changed_is_refused_in_words(ssh_hosts: Hosts, configured: Callable[[str], str], tmp_path: Path) -> None:
    port = next(line.split()[1] for line in ssh_hosts.config.read_text(encoding="utf-8").splitlines() if "Port" in line)
    other = " ".join((ssh_hosts.folder / "user.pub").read_text(encoding="ascii").split()[:2])
    (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {other}\n", encoding="ascii")
    with pytest.raises(HostRefused, match=r"host key of box changed.*ssh-keygen -R"):
        ask(Ssh("box", sys.executable, configured(f"UserKnownHostsFile {tmp_path}/known\nStrictHostKeyChecking accept-new")))
    assert (tmp_path / "known").read_text(encoding="ascii").count("\n") == 1  # nothing is accepted for the user


def test_an_unknown_host_key_is_the_users_to_accept(configured: Callable[[str], str]) -> None:
    with pytest.raises(HostRefused, match=r"host key of box is not known here\. Run `ssh box` once"):
        ask(Ssh("box", sys.executable, configured("UserKnownHostsFile /dev/null\nStrictHostKeyChecking ask")))


def test_a_host_that_would_ask_for_a_password_is_away_and_nothing_hangs(configured: Callable[[str], str], tmp_path: Path) -> None:
    ssh = configured(f"IdentityAgent none\nUserKnownHostsFile {tmp_path}/new\nStrictHostKeyChecking accept-new")
    config = tmp_path / "config"
    text = config.read_text(encoding="utf-8").replace("Include ", "#")
    port = next(line for line in Path(config.read_text().split("Include ")[1].strip()).read_text().splitlines() if "Port" in line)
    config.write_text(f"{text}Host box\n  HostName 127.0.0.1\n{port}\n  IdentityFile /dev/null\n", encoding="utf-8")
    with pytest.raises(HostAway, match=r"doesn't let us in without asking.*agent"):
        ask(Ssh("box", sys.executable, ssh))


def test_a_line_that_stalls_is_given_up(configured: Callable[[str], str]) -> None:
    with pytest.raises(HostAway, match=r"no answer within 0\.5 s"):
        ask(Ssh("box", sys.executable, configured("ProxyCommand sleep 60")), timeout_s=0.5)


def test_a_line_that_closes_at_once_is_away(configured: Callable[[str], str]) -> None:
    with pytest.raises(HostAway, match=r"(?i)connection closed|banner"):
        ask(Ssh("box", sys.executable, configured("ProxyCommand true")))


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("/no/such/python", "no Python can be started there"),
        (
            "{folder}/plain",
            r"no Python can be started there .*Permission denied.*`python` in \[compute\.ssh\.box\], or in \[compute\.slurm\]",
        ),
        ("{folder}/old", r"its Python is 3\.8, and 3\.11 is needed.*\[compute\.ssh\.box\]"),
        ("{folder}/bare", "autoresearch-mcp is not installed for"),
    ],
)
def test_a_python_that_can_do_nothing_is_told_with_what_mends_it(ssh_hosts: Hosts, tmp_path: Path, python: str, words: str) -> None:
    for name, lines in (("old", "import sys; sys.version_info = (3, 8, 10); "), ("bare", "")):
        program = tmp_path / name
        program.write_text(f"""#!/bin/sh\nshift\nexec '{sys.executable}' -S -c "{lines}$1"\n""", encoding="utf-8")
        program.chmod(0o755)
    (tmp_path / "plain").touch(0o644)
    with pytest.raises(HostRefused, match=words):
        ask(Ssh("box", python.format(folder=tmp_path), ssh_hosts.ssh))


def test_a_folder_that_cannot_be_made_there_is_told_and_not_what_the_host_greets_with(ssh_hosts: Hosts) -> None:
    with pytest.raises(HostAway, match=r"^NotADirectoryError: .*'/dev/null/labs/lab-of-a-test'$"):
        ask(Ssh("box", sys.executable, ssh_hosts.ssh), folder="/dev/null/labs")


def test_another_version_there_is_told(ssh_hosts: Hosts) -> None:
    with pytest.raises(HostRefused, match="another version of autoresearch-mcp is installed"):
        ask(Ssh("box", sys.executable, ssh_hosts.ssh), fixed="of another version")


@pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/x", "box:", "box:a", "a b", "$(id)", "box\n"])
def test_a_name_that_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"lab": {"name": "a lab"}, "compute": {"backend": "ssh", "hosts": [host]}})


def test_a_machine_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="name box once, with all of its GPUs"):
        Settings.model_validate({"lab": {"name": "a lab"}, "compute": {"backend": "ssh", "hosts": ["box:0", "other", "box:1"]}})


def test_a_machine_whose_gpus_are_not_named_is_refused_where_trainings_would_share_them() -> None:
    given = {"lab": {"name": "a lab"}, "training": {"profile": "gpu"}, "compute": {"backend": "ssh", "hosts": ["box:0,1", "other"]}}
    with pytest.raises(ValidationError, match='hosts must name the GPUs that trainings get, such as "other:0"'):
        Settings.model_validate(given)
    assert Settings.model_validate({**given, "compute": {"backend": "ssh", "hosts": ["box:0,1"]}}).slots == 2


def test_hours_run_over_midnight() -> None:
    night, day = HostSection(allowed="19:00-08:00"), HostSection(allowed="08:00-19:00")
    assert [night.allows(hour * 60) for hour in (7, 8, 18, 19, 23)] == [True, False, False, True, True]
    assert [day.allows(hour * 60) for hour in (7, 8, 18, 19)] == [False, True, True, False]
    with pytest.raises(ValidationError):
        HostSection(allowed="25:00-08:00")
