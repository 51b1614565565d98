"""Lists the MCP clients that `install` knows. Where a client keeps its servers, and how it writes them, its own documentation says."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoresearch_mcp.server.clients.entries import NAME, TOKEN, Address, Launch, at_url, headers, plain
from autoresearch_mcp.server.clients.formats import ConfigFormat
from autoresearch_mcp.server.clients.json_text import JsonText
from autoresearch_mcp.server.clients.toml_text import TomlText
from autoresearch_mcp.server.clients.yaml_text import YamlText
from autoresearch_mcp.server.errors import LabError

Scope = Literal["project", "user"]
_JSON, _JSONC, _TOML, _YAML = JsonText(), JsonText(comments=True), TomlText(), YamlText()


@dataclass(frozen=True)
class McpClient:
    """Where and how a client is told of its servers.

    Attributes:
        page: the page of its documentation that says so.
        check: how a person sees there that the server is connected.
        project: its file in a project's folder; of several the first one that exists, else the first. Empty where it has none.
        user: returns its file for all projects in the same way; None where it has none.
        section: the part of that file that holds servers by name.
        format: of that file.
        stdio: returns the entry that starts a server.
        http: returns the entry of a running server; None where the client takes none.
        token: stands for the value of `$AUTORESEARCH_TOKEN` in such an entry; empty where the client knows no variables.
    """

    page: str
    check: str
    project: tuple[str, ...] = ()
    user: Callable[[], tuple[Path, ...]] | None = None
    section: str = "mcpServers"
    format: ConfigFormat = _JSON
    stdio: Callable[[Launch], dict[str, Any]] = plain
    http: Callable[[Address], dict[str, Any]] | None = at_url
    token: str = ""

    def scope(self, wanted: Scope | None = None) -> Scope:
        """Return the scope to use: the project's by default, where the client has one.

        Raises:
            LabError: `no_such_scope`.
        """
        usual: Scope = "project" if self.project else "user"
        if wanted is not None and not (self.project if wanted == "project" else self.user):
            raise LabError(f"This client has no configuration of the scope {wanted}. Use --scope {usual}.", "no_such_scope")
        return wanted or usual

    def config(self, folder: Path, scope: Scope | None = None) -> Path:
        """Return its configuration file.

        Args:
            folder: the project's.
            scope: the project's by default, where the client has one.

        Raises:
            LabError: `no_such_scope`.
        """
        if self.scope(scope) == "project":
            paths = tuple(folder / name for name in self.project)
        else:
            assert self.user is not None
            paths = self.user()
        return next((path for path in paths if path.exists()), paths[0])


def _in_home(*names: str) -> Callable[[], tuple[Path, ...]]:
    return lambda: tuple(Path.home() / name for name in names)


def _in_folder(variable: str, default: str, name: str) -> Callable[[], tuple[Path, ...]]:
    """Return a file in the folder that an environment variable names, else in one of the home."""
    return lambda: (Path(os.environ.get(variable) or Path.home() / default) / name,)


def _in_app_data(*names: str) -> Callable[[], tuple[Path, ...]]:
    """Return files in the folder where programs with a window keep their settings."""

    def paths() -> tuple[Path, ...]:
        if sys.platform == "darwin":
            base = Path.home() / "Library" / "Application Support"
        elif sys.platform == "win32":
            base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
        else:
            base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return tuple(base / name for name in names)

    return paths


def _cline() -> tuple[Path, ...]:
    if given := os.environ.get("CLINE_MCP_SETTINGS_PATH"):
        return (Path(given),)
    name = "cline_mcp_settings.json"
    in_editor = _in_app_data(f"Code/User/globalStorage/saoudrizwan.claude-dev/settings/{name}")()
    return (Path.home() / ".cline" / "data" / "settings" / name, *in_editor)


def _claude_code_user() -> tuple[Path, ...]:
    return (Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home()) / ".claude.json",)


def _typed_stdio(server: Launch) -> dict[str, Any]:
    return {"type": "stdio", **plain(server)}


def _typed(kind: str) -> Callable[[Address], dict[str, Any]]:
    return lambda server: {"type": kind, **at_url(server)}


def _named_url(key: str) -> Callable[[Address], dict[str, Any]]:
    return lambda server: {key: server.url, **headers(server)}


def _codex_http(server: Address) -> dict[str, Any]:
    return {"url": server.url, **({"bearer_token_env_var": TOKEN} if server.authorization else {})}


def _opencode_stdio(server: Launch) -> dict[str, Any]:
    environment = {"environment": server.env} if server.env else {}
    return {"type": "local", "command": [server.command, *server.args], "enabled": True, **environment}


def _opencode_http(server: Address) -> dict[str, Any]:
    return {"type": "remote", "url": server.url, "enabled": True, **headers(server)}


def _goose_stdio(server: Launch) -> dict[str, Any]:
    return {"enabled": True, "type": "stdio", "name": NAME, "cmd": server.command, "args": server.args, "envs": server.env, "timeout": 300}


def _goose_http(server: Address) -> dict[str, Any]:
    return {"enabled": True, "type": "streamable_http", "name": NAME, "uri": server.url, **headers(server), "timeout": 300}


def _copilot_stdio(server: Launch) -> dict[str, Any]:
    return {"type": "local", **plain(server), "tools": ["*"]}


def _copilot_http(server: Address) -> dict[str, Any]:
    return {**_typed("http")(server), "tools": ["*"]}


def _vscode(program: str) -> McpClient:
    return McpClient(
        page="https://code.visualstudio.com/docs/copilot/customization/mcp-servers",
        check="Run the command `MCP: List Servers`: it is listed there, and you start it there.",
        project=(".vscode/mcp.json",),
        user=_in_app_data(f"{program}/User/mcp.json"),
        section="servers",
        format=_JSONC,
        stdio=_typed_stdio,
        http=_typed("http"),
        token=f"${{env:{TOKEN}}}",
    )


CLIENTS = {
    "claude-code": McpClient(
        page="https://code.claude.com/docs/en/mcp",
        check="`claude mcp list` shows it as connected; a project's server asks for your approval once, in `claude`.",
        project=(".mcp.json",),
        user=_claude_code_user,
        http=_typed("http"),
        token=f"${{{TOKEN}}}",
    ),
    "claude-desktop": McpClient(
        page="https://modelcontextprotocol.io/docs/develop/connect-local-servers",
        check="Restart the app: Settings > Developer shows it as running.",
        user=_in_app_data("Claude/claude_desktop_config.json"),
        http=None,
    ),
    "cursor": McpClient(
        page="https://cursor.com/docs/context/mcp",
        check="Settings > MCP shows its tools, and so does `cursor-agent mcp list-tools autoresearch`.",
        project=(".cursor/mcp.json",),
        user=_in_home(".cursor/mcp.json"),
        token=f"${{env:{TOKEN}}}",
    ),
    "vscode": _vscode("Code"),
    "vscode-insiders": _vscode("Code - Insiders"),
    "codex": McpClient(
        page="https://developers.openai.com/codex/mcp",
        check="`codex mcp list` shows it as enabled. Codex reads a project's file once you trust the project.",
        project=(".codex/config.toml",),
        user=_in_folder("CODEX_HOME", ".codex", "config.toml"),
        section="mcp_servers",
        format=_TOML,
        http=_codex_http,
        token=TOKEN,
    ),
    "gemini-cli": McpClient(
        page="https://geminicli.com/docs/tools/mcp-server/",
        check="`gemini mcp list` shows it as connected. Gemini CLI starts servers once you trust the folder that it runs in.",
        project=(".gemini/settings.json",),
        user=_in_home(".gemini/settings.json"),
        format=_JSONC,
        http=_named_url("httpUrl"),
        token=f"${{{TOKEN}}}",
    ),
    "opencode": McpClient(
        page="https://opencode.ai/docs/mcp-servers",
        check="`opencode mcp list` shows it as connected.",
        project=("opencode.json", "opencode.jsonc"),
        user=lambda: tuple(
            Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "opencode" / name
            for name in ("opencode.json", "opencode.jsonc")
        ),
        section="mcp",
        format=_JSONC,
        stdio=_opencode_stdio,
        http=_opencode_http,
        token=f"{{env:{TOKEN}}}",
    ),
    "zed": McpClient(
        page="https://zed.dev/docs/ai/mcp",
        check="The Agent Panel's settings show a green dot beside it.",
        project=(".zed/settings.json",),
        user=lambda: (Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "zed" / "settings.json",),
        section="context_servers",
        format=_JSONC,
    ),
    "windsurf": McpClient(
        page="https://docs.windsurf.com/windsurf/cascade/mcp",
        check="Refresh the MCP panel of Cascade: it lists the tools.",
        user=_in_home(".codeium/windsurf/mcp_config.json"),
        http=_named_url("serverUrl"),
        token=f"${{env:{TOKEN}}}",
    ),
    "cline": McpClient(
        page="https://docs.cline.bot/mcp/mcp-overview",
        check="MCP Servers > Installed shows a green dot beside it.",
        user=_cline,
        http=_typed("streamableHttp"),
    ),
    "roo": McpClient(
        page="https://docs.roocode.com/features/mcp/using-mcp-in-roo",
        check="The MCP view shows it with its tools.",
        project=(".roo/mcp.json",),
        user=_in_app_data("Code/User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json"),
        http=_typed("streamable-http"),
        token=f"${{env:{TOKEN}}}",
    ),
    "goose": McpClient(
        page="https://goose-docs.ai/docs/guides/config-files",
        check="`goose info -v` shows it among the extensions.",
        user=lambda: (Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "goose" / "config.yaml",),
        section="extensions",
        format=_YAML,
        stdio=_goose_stdio,
        http=_goose_http,
    ),
    "copilot-cli": McpClient(
        page="https://docs.github.com/en/copilot/how-tos/copilot-cli/customize-copilot/add-mcp-servers",
        check="`copilot mcp get autoresearch` shows it; in a session, so does `/mcp show`.",
        project=(".github/mcp.json",),
        user=_in_folder("COPILOT_HOME", ".copilot", "mcp-config.json"),
        stdio=_copilot_stdio,
        http=_copilot_http,
        token=f"${{{TOKEN}}}",
    ),
    "kiro": McpClient(
        page="https://kiro.dev/docs/mcp/configuration",
        check="The MCP Servers panel shows it as connected; in Kiro CLI, `/mcp` does.",
        project=(".kiro/settings/mcp.json",),
        user=_in_home(".kiro/settings/mcp.json"),
        token=f"${{{TOKEN}}}",
    ),
    "lm-studio": McpClient(
        page="https://lmstudio.ai/docs/app/mcp",
        check="The Program tab lists it: switch it on there.",
        user=_in_home(".lmstudio/mcp.json"),
    ),
    "continue": McpClient(
        page="https://docs.continue.dev/customize/deep-dives/mcp",
        check="In agent mode, the tools icon lists its tools.",
        project=(f".continue/mcpServers/{NAME}.json",),
        http=_typed("streamable-http"),
    ),
    "jetbrains": McpClient(
        page="https://www.jetbrains.com/help/junie/model-context-protocol-mcp.html",
        check="Settings > Tools > Junie > MCP Settings shows it as active.",
        project=(".junie/mcp/mcp.json",),
        user=_in_home(".junie/mcp/mcp.json"),
        http=None,
    ),
}
"""The clients that `install` knows: the one list of them."""
