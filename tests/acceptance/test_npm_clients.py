"""Real clients from npm after one `install`: each says that the server is there. No model. `make client-test` fetches them."""

import json
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server.clients import CLIENTS, NAME
from autoresearch_mcp.server.clients.entries import words
from tests import published
from tests.acceptance import npm


@pytest.mark.parametrize("client", npm.CLIENTS)
def test_one_command_installs_and_the_client_lists_the_server_with_all_tools(
    client: str, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = npm.program(npm.CLIENTS[client].name)
    cli = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli"]
    assert "Added autoresearch" in npm.ran(*cli, "install", client, str(lab), "--scope", "user", home=tmp_path)
    npm.shown(client, str(lab), home=tmp_path)
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "COPILOT_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    kind = CLIENTS[client]
    entry = kind.format.servers(kind.config(lab, "user").read_text("utf-8"), kind.section)[NAME]
    command, *arguments = words(entry)

    async def tools() -> tuple[str, ...]:
        async with Client(StdioServerParameters(command=command, args=arguments, cwd=tmp_path, env=npm.environment(tmp_path))) as server:
            return tuple(tool.name for tool in (await server.list_tools()).tools)

    assert anyio.run(tools) == TOOLS
    assert "Removed" in npm.ran(*cli, "uninstall", client, str(lab), "--scope", "user", home=tmp_path)
    assert NAME not in npm.ran(program, "mcp", "list", home=tmp_path)


def test_their_own_validators_accept_the_bundle_and_the_plugin(tmp_path: Path) -> None:
    mcpb, claude = npm.program("mcpb"), npm.program("claude")
    packed = published.bundle(tmp_path / "dist")
    npm.ran(mcpb, "unpack", str(packed), str(tmp_path / "unpacked"), home=tmp_path)
    assert "passes" in npm.ran(mcpb, "validate", str(tmp_path / "unpacked" / "manifest.json"), home=tmp_path)
    assert json.loads((tmp_path / "unpacked" / "manifest.json").read_text("utf-8")) == published.manifest()
    for folder in (npm.HERE, npm.HERE / "plugin"):
        assert "Validation passed" in npm.ran(claude, "plugin", "validate", str(folder), home=tmp_path)
