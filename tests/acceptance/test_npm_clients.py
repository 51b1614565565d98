"""Real clients from npm after one `install`: each says that the server is there. No model. `make client-test` fetches them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server.clients import CLIENTS
from autoresearch_mcp.server.clients.entries import words
from tests import published

HERE = Path(__file__).parents[2]
PROGRAMS = HERE / ".node" / "node_modules" / ".bin"
LISTED = {
    "claude-code": ("claude", "✔ Connected"),
    "codex": ("codex", "enabled"),  # it starts servers in a session only
    "gemini-cli": ("gemini", "- Connected"),
    "opencode": ("opencode", "connected"),
}

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (PROGRAMS / "claude").exists(),
    reason="the clients are hundreds of MB from npm, and need node: make client-test fetches them",
)


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "CODEX", "GEMINI", "OPENCODE", "XDG_"))}
    return kept | {"HOME": str(home), "GEMINI_CLI_TRUST_WORKSPACE": "true", "PYTHONPATH": str(HERE), "NO_COLOR": "1"}


def ran(*command: str, home: Path) -> str:
    done = subprocess.run(
        command, env=environment(home), cwd=home, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("client", LISTED)
def test_one_command_installs_and_the_client_lists_the_server_with_all_tools(
    client: str, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, connected = LISTED[client]
    cli = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli"]
    assert "Added autoresearch" in ran(*cli, "install", client, str(lab), "--scope", "user", home=tmp_path)
    for _ in range(3):  # Gemini CLI gives a server 5 s, which a busy machine may need
        listed = ran(str(PROGRAMS / program), "mcp", "list", home=tmp_path)
        if connected in listed:
            break
    assert str(lab) in listed and connected in listed
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    kind = CLIENTS[client]
    entry = kind.format.servers(kind.config(lab, "user").read_text("utf-8"), kind.section)["autoresearch"]
    command, *arguments = words(entry)

    async def tools() -> tuple[str, ...]:
        async with Client(StdioServerParameters(command=command, args=arguments, cwd=tmp_path, env=environment(tmp_path))) as server:
            return tuple(tool.name for tool in (await server.list_tools()).tools)

    assert anyio.run(tools) == TOOLS
    assert "Removed" in ran(*cli, "uninstall", client, str(lab), "--scope", "user", home=tmp_path)
    assert str(lab) not in ran(str(PROGRAMS / program), "mcp", "list", home=tmp_path)


def test_their_own_validators_accept_the_bundle_and_the_plugin(tmp_path: Path) -> None:
    packed = published.bundle(tmp_path / "dist")
    ran(str(PROGRAMS / "mcpb"), "unpack", str(packed), str(tmp_path / "unpacked"), home=tmp_path)
    assert "passes" in ran(str(PROGRAMS / "mcpb"), "validate", str(tmp_path / "unpacked" / "manifest.json"), home=tmp_path)
    assert json.loads((tmp_path / "unpacked" / "manifest.json").read_text("utf-8")) == published.manifest()
    for folder in (HERE, HERE / "plugin"):
        assert "Validation passed" in ran(str(PROGRAMS / "claude"), "plugin", "validate", str(folder), home=tmp_path)
