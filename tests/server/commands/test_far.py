"""A lab on another machine, spoken to over a real sshd."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from autoresearch_mcp.server.cli import main
from autoresearch_mcp.server.commands.far import parse
from autoresearch_mcp.server.errors import LabError
from tests.acceptance.serving import answer
from tests.standins.sshd import Hosts
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def far_lab(ssh_hosts: Hosts, make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """A lab in the home of `other`, which greets who logs in; with our program where `setup ssh` would put it."""
    root = make_lab("far away")
    home = ssh_hosts.home("other")
    (home / "my lab").unlink(missing_ok=True)
    (home / "my lab").symlink_to(root)
    program = home / ".autoresearch-mcp" / "venv" / "bin" / "autoresearch-mcp"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m autoresearch_mcp.server.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    return "my lab"


async def test_a_launch_repeated_after_the_line_broke_to_a_lab_behind_ssh_is_one_launch(
    far_lab: str, ssh_hosts: Hosts, tmp_path: Path
) -> None:
    config = tmp_path / "mcp.json"
    assert main(["install", "claude-code", far_lab, "--ssh", "other", "--config", str(config)]) == 0
    entry = json.loads(config.read_text(encoding="utf-8"))["mcpServers"]["autoresearch"]
    assert entry["args"][-2:] == ["--ssh", f"other:{far_lab}"]
    there = StdioServerParameters(command=entry["command"], args=[*entry["args"], "--as", "ada"], env=dict(os.environ))
    with anyio.fail_after(90):
        async with Client(there) as client:
            status = await answer(client, "get_status")
            launch = {"commit": status["champion"]["commit"], "author": "ada", "idempotency_key": "once-and-for-all"}
            first = await answer(client, "launch_training", **launch)
            for line in sessions(ssh_hosts):
                os.kill(line, signal.SIGKILL)
        assert not sessions(ssh_hosts)
        async with Client(there) as client:
            again = await answer(client, "launch_training", **launch)
            assert again["experiments"] == first["experiments"]
            await answer(client, "cancel_experiment", mine=True)
    until(lambda: not sessions(ssh_hosts))


def sessions(hosts: Hosts) -> list[int]:
    """The process ids of ssh's here that speak with hosts, but for those that keep a shared connection."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(hosts.config).encode() in words and any(b" serve " in word for word in words):
            lines.append(int(process.name))
    return lines


def test_a_machine_without_our_program_is_told_with_what_puts_it_there(ssh_hosts: Hosts) -> None:
    environment = os.environ | {"PATH": f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}"}
    serve = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "serve", "--ssh", "box:my-lab"]
    served = subprocess.run(serve, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert served.returncode != 0 and served.stdout == ""
    assert "autoresearch-mcp is not on box. Run `autoresearch-mcp setup ssh box` here." in served.stderr


def test_what_names_no_lab_on_another_machine_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("box", "box:", ":lab", "-oProxyCommand=x:lab", "box:--http", "box:a\nb"):
        with pytest.raises(LabError, match="HOST:PATH, such as box:my-lab"):
            parse(address)
    assert main(["serve", "--ssh", "box:lab", "another"]) != 0
    assert main(["install", "claude-code", "lab", "--ssh=-box", "--config", str(tmp_path / "c.json")]) != 0
    assert "names no lab" in capsys.readouterr().err and not (tmp_path / "c.json").exists()
