"""Knows how a client's own program runs without a terminal: by which words it takes a prompt, and how it is told of the lab's server.

The pages: https://code.claude.com/docs/en/headless, https://developers.openai.com/codex/noninteractive,
https://geminicli.com/docs/cli/headless/ and https://opencode.ai/docs/cli/
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.clients import CLIENTS, NAME, TOKEN, Address, launch
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.roles import Role

PROMPT = "{prompt}"
_START_S = 60  # for the server to start beside trainings, which keep the cores busy
_ALONE: dict[str, dict[str, Any]] = {  # what a client needs in its entry where nobody answers
    "codex": {"required": True, "startup_timeout_sec": _START_S},  # else its first turn may begin without the lab's tools
    "gemini-cli": {"trust": True},  # else it asks before each call
    "opencode": {"timeout": _START_S * 1000},
}
_VARIABLES = {
    "claude-code": {"MCP_CONNECTION_NONBLOCKING": "0"},  # wait for the server, as above
    "gemini-cli": {"GEMINI_CLI_TRUST_WORKSPACE": "true"},
}
_CLIENTS = {"claude": "claude-code", "codex": "codex", "gemini": "gemini-cli", "opencode": "opencode"}


@dataclass(frozen=True)
class Agent:
    """One agent of a campaign.

    Attributes:
        name: it signs with this.
        role: what it may do in the lab.
        folder: its own: it works there, and its transcripts stay there.
    """

    name: str
    role: Role
    folder: Path


@dataclass(frozen=True)
class Headless:
    """A client's program, as its owner wants it to be run.

    Attributes:
        words: the command, in which `{prompt}` stands for the prompt; without it, the prompt comes last.
    """

    words: tuple[str, ...]

    @classmethod
    def parse(cls, command: str) -> "Headless":
        """Read a command line.

        Raises:
            LabError: `bad_option`, where it is none.
        """
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise LabError(f"--with can't be read: {error}.", "bad_option") from None
        if not words:
            raise LabError("--with is empty. Name the client's command, such as `claude -p`.", "bad_option")
        return cls(words)

    def command(self, prompt: str, folder: Path) -> list[str]:
        """Return the whole command line, with what makes the client use the lab's server that `configure` wrote."""
        given = [word.replace(PROMPT, prompt) for word in self.words]
        given += [] if any(PROMPT in word for word in self.words) else [prompt]
        match self._client:
            case "claude-code":  # it would ask whether to use a folder's servers; these options take all words that follow
                return [*given, "--mcp-config", str(folder / ".mcp.json"), "--allowedTools", f"mcp__{NAME}"]
            case "codex":  # it reads a folder's configuration only where the folder is trusted
                server = CLIENTS["codex"].format.servers((folder / ".codex" / "config.toml").read_text("utf-8"), "mcp_servers")[NAME]
                values = ((key, json.dumps(value, ensure_ascii=False)) for key, value in _flat(server))  # JSON's escapes aren't all TOML's
                return [*given, *(word for key, value in values for word in ("-c", f"mcp_servers.{NAME}.{key}={value}"))]
        return given

    def configure(self, agent: Agent, lab: Path, url: str) -> None:
        """Write the client's configuration into an agent's folder; in every form that we know, where the client isn't one of ours.

        Args:
            agent: for whom.
            lab: the server that a client starts serves it, as this agent and in its role.
            url: of a running server instead, which is sent the agent's token; empty for none.
        """
        agent.folder.mkdir(parents=True, exist_ok=True)
        start = launch("--as", agent.name, "--role", str(agent.role), str(lab))
        for client in [self._client] if self._client else _CLIENTS.values():
            kind = CLIENTS[client]
            assert kind.http is not None
            entry = kind.http(Address(url, f"Bearer {kind.token}")) if url else kind.stdio(start)
            entry |= _ALONE.get(client, {})
            path = kind.config(agent.folder, "project")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(kind.format.snippet(kind.section, NAME, entry), encoding="utf-8")

    def environment(self, agent: Agent, lab: Path, url: str, token: str) -> dict[str, str]:
        """Return what an agent's process is told beside its command."""
        variables = {"AUTORESEARCH_LAB": str(lab), "AUTORESEARCH_AGENT": agent.name, "AUTORESEARCH_ROLE": str(agent.role)}
        variables |= {"AUTORESEARCH_URL": url, TOKEN: token} if url else {}
        return variables | _VARIABLES.get(self._client, {})

    @property
    def _client(self) -> str:
        return _CLIENTS.get(Path(self.words[0]).name, "")


def _flat(server: dict[str, object]) -> list[tuple[str, object]]:
    """Return the values of a server's entry by dotted key."""
    flat: list[tuple[str, object]] = []
    for key, value in server.items():
        flat += [(f"{key}.{name}", inner) for name, inner in value.items()] if isinstance(value, dict) else [(key, value)]
    return flat
