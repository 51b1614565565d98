"""From a home with nothing in it but pip: the built wheel, a lab, each client from npm in one line, and the first campaign through it.

A scripted model stands behind the client, so no account takes part. All else is what a user has: the client's own program, its answers to
the model, the server that it starts, trainings, scorer and gate.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.acceptance import npm, scripts
from tests.acceptance.scripted_model import scripted_model

MINUTES = 15
ALLOWED = {  # what a client would ask a person, or wait for while one types
    "claude-code": ["--allowedTools", "mcp__autoresearch"],
    "codex": ["-c", "mcp_servers.autoresearch.required=true"],
    "gemini-cli": ["--approval-mode", "yolo"],
}


class Nothing(NamedTuple):
    """A user's home, and the programs that are in its PATH."""

    home: Path
    path: str

    def ran(self, *command: str, place: Path | None = None, timeout_s: float = 60 * MINUTES, **more: str) -> str:
        """Run a command there; return what it printed."""
        return npm.ran(*command, home=self.home, place=place, timeout_s=timeout_s, PATH=self.path, PYTHONPATH="", **more)

    def lab(self, name: str) -> Path:
        """Make a lab whose trainings need no torch."""
        self.ran("autoresearch-mcp", "init", name, "--example", "tabular")
        return self.home / name

    def status(self, root: Path) -> dict[str, Any]:
        """Return what a lab says of itself."""
        status: dict[str, Any] = json.loads(self.ran("autoresearch-mcp", "status", "--json", str(root)))
        return status


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Nothing:
    """Build the wheel, make a home, and install the wheel there by uv, which pip brings."""
    if "AUTORESEARCH_FROM_NOTHING" not in os.environ:
        pytest.skip("takes minutes, and packages from PyPI and npm: `make client-test` runs it")
    place = tmp_path_factory.mktemp("nothing")
    wheel = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "dist"), str(npm.HERE)]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = (place / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(place / "pip")], check=True)
    pip = [str(place / "pip" / "bin" / "python"), "-m", "pip", "install", "--quiet", "uv"]
    subprocess.run(pip, check=True, capture_output=True)
    (place / "home").mkdir()
    path = [place / "home" / ".local" / "bin", place / "pip" / "bin", npm.PROGRAMS, *map(Path, ("/usr/local/bin", "/usr/bin", "/bin"))]
    made = Nothing(place / "home", ":".join(map(str, path)))
    passing = made.ran("uv", "tool", "run", "--python", sys.executable, "--from", str(built), "autoresearch-mcp", "init", "passing")
    assert "uv tool install" in passing and "torch" in passing  # what `uvx` runs is thrown away: this keeps it
    made.ran("uv", "tool", "install", "--python", sys.executable, f"autoresearch-mcp[sklearn] @ {built.as_uri()}")
    return made


def test_the_wheels_demo_runs_without_torch(nothing: Nothing) -> None:
    shown = nothing.ran("autoresearch-mcp", "demo", "digits", "--example", "tabular")
    assert "Done in" in shown and (nothing.home / "digits" / "progress.png").is_file()


@pytest.mark.parametrize("client", npm.CLIENTS)
def test_one_line_installs_the_client_connects_and_its_first_campaign_reaches_the_gate(client: str, nothing: Nothing) -> None:
    npm.program(npm.CLIENTS[client].name)
    root, whole = nothing.lab(client), client == "claude-code"  # the others ask the gate after one training
    assert "Added autoresearch" in nothing.ran("autoresearch-mcp", "install", client, client, "--scope", "user")
    npm.shown(client, home=nothing.home, PATH=nothing.path)
    prompt = f"Follow orchestrator.md, alone. {scripts.UNTIL_DECIDED if whole else ''}"
    with scripted_model(scripts.first_campaign) as model:
        words, variables = npm.headless(client, model.url, nothing.home)
        said = nothing.ran(*words, prompt, *ALLOWED.get(client, []), place=root, **variables)
    assert ("promoted is true: promote" if whole else "promoted is false: ") in said, said
    status = nothing.status(root)
    nothing.ran("autoresearch-mcp", "pause", "--now", str(root))
    assert status["promotions"] == whole and status["counts"]["finished"] >= 2
    assert status["champion"]["commit"][:12] in said or not whole


@pytest.mark.parametrize("client", ["claude-code", "codex", "gemini-cli", "opencode"])
def test_a_campaign_with_a_client_ends_where_the_budget_does(client: str, nothing: Nothing) -> None:
    npm.program(npm.CLIENTS[client].name)
    root = nothing.lab(f"campaign-{client}")
    hours = (nothing.status(root)["training"]["reserves_s"] + 1) / 3600  # one training can start, and once it has ended, none
    settings = (root / "lab.toml").read_text("utf-8")
    limited = re.sub(r"(?m)^device_hours = .*$", f"device_hours = {hours:.6f}", settings)
    (root / "lab.toml").write_text(limited, encoding="utf-8")
    assert limited != settings
    with scripted_model(scripts.role) as model:
        words, variables = npm.headless(client, model.url, nothing.home)
        campaign = ["campaign", "--with", shlex.join(words), "--workers", "1", "--for", f"{MINUTES}m", str(root)]
        said = nothing.ran("autoresearch-mcp", *campaign, **variables)
    assert "The campaign ended: the budget covers no more trainings" in said
    assert "worker-1" in nothing.status(root)["cost_by_author"]
    folder = root.with_name(f"{root.name}-campaign")
    for agent, words in (("orchestrator", "Nothing to decide."), ("worker-1", "One more.")):
        assert words in "".join(path.read_text("utf-8") for path in (folder / agent).glob("transcript-*.txt"))
