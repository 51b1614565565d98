"""Runs clients' own programs from npm, which `make client-test` fetches, with a scripted model behind those that ask one."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parents[2]
PROGRAMS = HERE / ".node" / "node_modules" / ".bin"


class Program(NamedTuple):
    """A client's program, what has it show its servers, and how it says there that all is well with one."""

    name: str
    shows: str
    connected: str


CLIENTS = {
    "claude-code": Program("claude", "mcp list", "✔ Connected"),
    "codex": Program("codex", "mcp list", "enabled"),  # it starts servers in a session only
    "gemini-cli": Program("gemini", "mcp list", "- Connected"),
    "opencode": Program("opencode", "mcp list", "connected"),
    "copilot-cli": Program("copilot", "mcp get autoresearch", "Status: Enabled"),  # as above
}
_OTHERS = ("CLAUDE", "ANTHROPIC", "CODEX", "OPENAI", "GEMINI", "GOOGLE", "OPENCODE", "COPILOT", "GITHUB", "GH_", "XDG_", "AUTORESEARCH")


def program(name: str) -> str:
    """Return a client's program; without it, the test is skipped."""
    if shutil.which("node") is None or not (PROGRAMS / name).exists():
        pytest.skip(f"needs node and {name}, hundreds of MB from npm: `make client-test` fetches it and runs this")
    return str(PROGRAMS / name)


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment, with another home and nothing of the client that may run these tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
    return kept | {"HOME": str(home), "GEMINI_CLI_TRUST_WORKSPACE": "true", "PYTHONPATH": str(HERE), "NO_COLOR": "1"}


def ran(*command: str, home: Path, place: Path | None = None, timeout_s: float = 120, **more: str) -> str:
    """Run a command that must succeed; return what it printed.

    Args:
        command: its words.
        home: of the user for whom it runs.
        place: the folder that it runs in; the home by default.
        timeout_s: for how long it may run.
        more: of its environment.
    """
    done = subprocess.run(
        command,
        env=environment(home) | {"PWD": str(place or home)} | more,
        cwd=place or home,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def headless(client: str, url: str, home: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command by which a client runs without a terminal, which a prompt completes, and its environment.

    Args:
        client: one of `CLIENTS`.
        url: of the scripted model, to which it is told to talk as its own documentation says.
        home: of the user; it is made where there is none.
    """
    words = [program(CLIENTS[client].name)]
    match client:
        case "claude-code":
            return [*words, "-p"], {
                "ANTHROPIC_BASE_URL": url,
                "ANTHROPIC_API_KEY": "none",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            }
        case "codex":
            provider = f'{{name = "scripted", base_url = "{url}/v1", wire_api = "responses"}}'
            settings = ["model=scripted", "model_provider=scripted", f"model_providers.scripted={provider}"]
            return [*words, "exec", "--skip-git-repo-check", *(word for each in settings for word in ("-c", each))], {}
        case "gemini-cli":
            _settle(home / ".gemini" / "settings.json", {"security": {"auth": {"selectedType": "gemini-api-key"}}})
            return [*words, "--model", "gemini-2.5-pro", "-p"], {"GEMINI_API_KEY": "none", "GOOGLE_GEMINI_BASE_URL": url}
        case "opencode":
            options = {"baseURL": f"{url}/v1", "apiKey": "none"}
            scripted = {"npm": "@ai-sdk/openai-compatible", "name": "scripted", "options": options, "models": {"scripted": {}}}
            _settle(home / ".config" / "opencode" / "opencode.json", {"provider": {"scripted": scripted}})
            return [*words, "run", "--model", "scripted/scripted"], {}
        case _:
            return [*words, "--allow-all-tools", "-p"], {"COPILOT_PROVIDER_BASE_URL": f"{url}/v1", "COPILOT_MODEL": "scripted"}


def shown(client: str, *connected: str, home: Path, **more: str) -> str:
    """Return what a client shows of its servers, once that holds these words: Gemini CLI gives a server 5 s, which a busy machine may need."""
    kind = CLIENTS[client]
    for _ in range(3):
        words = ran(program(kind.name), *kind.shows.split(), home=home, **more)
        if all(word in words for word in (kind.connected, *connected)):
            break
    else:
        raise AssertionError(words)
    return words


def _settle(path: Path, settings: dict[str, object]) -> None:
    """Add settings to a client's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(old | settings), encoding="utf-8")
