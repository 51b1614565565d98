"""Client libraries and agent frameworks from PyPI against the server over stdio. Their models are scripts. `make client-test` fetches them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.contracts import TOOLS
from tests.acceptance import libraries
from tests.acceptance.drive_library import EDIT
from tests.acceptance.scripted_model import Script, said, scripted_model

HERE = Path(__file__).parents[2]
EXAMPLES = {
    "openai-agents": "openai_agents_sdk.py",
    "pydantic-ai": "pydantic_ai_agent.py",
    "langchain": "langgraph_agent.py",
    "claude-agent-sdk": "claude_agent_sdk_agent.py",
}
LIBRARIES = {
    "openai-agents": "openai_agents",
    "pydantic-ai": "pydantic_ai",
    "langchain": "langchain",
    "fastmcp-2": "fastmcp",
    "fastmcp-4": "fastmcp",
    "mcp-use": "mcp_use",
    "smolagents": "smolagents",
    "google-adk": "google_adk",
}


def drive(environment: str, script: Path, *arguments: str, lab: Path, home: Path) -> str:
    """Run a script with the command that starts the lab's server; return what it printed."""
    if not libraries.is_ready(environment):
        pytest.skip(f"{environment} needs an environment of its own, hundreds of MB from PyPI: `make client-test` fetches it and runs this")
    server = [str(Path(sys.executable).with_name("autoresearch-mcp")), "serve", str(lab)]
    command = [str(libraries.python(environment)), str(script), *arguments, *server]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAUDE", "ANTHROPIC", "OPENAI", "PYTHON"))}
    kept |= {"HOME": str(home), "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "MCP_USE_ANONYMIZED_TELEMETRY": "false"}
    done = subprocess.run(command, env=kept, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("environment", EXAMPLES)
def test_an_examples_scripted_model_reads_the_status_proposes_and_writes_a_note(environment: str, lab: Path, tmp_path: Path) -> None:
    tools, *answers = drive(environment, HERE / "examples" / EXAMPLES[environment], lab=lab, home=tmp_path).splitlines()
    assert set(tools.removeprefix("tools: ").split()) == set(TOOLS)
    status, proposed, noted = answers
    assert all(part in line for part, line in (('"champion"', status), ('"duplicate"', proposed), ("Written down for good", noted)))


@pytest.mark.parametrize("environment", LIBRARIES)
def test_a_library_lists_the_tools_and_calls_two(environment: str, lab: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("drive_library.py")
    answers = json.loads(drive(environment, script, LIBRARIES[environment], lab=lab, home=tmp_path))
    assert set(answers["tools"]) == set(TOOLS)
    assert "champion" in answers["get_status"] and "duplicate" in answers["propose_patch"]


def test_google_genai_converts_every_tool_and_calls_what_a_model_asks_for(lab: Path, tmp_path: Path) -> None:
    def script(prompt: str) -> Script:
        status = yield "get_status", {}
        proposed = yield "propose_patch", {"hypothesis": "a third layer", "edits": [EDIT]}
        return f"{said(status, 'lab')} {said(proposed, 'duplicate')}"

    with scripted_model(script) as model:
        told = drive("google-genai", Path(__file__).with_name("drive_library.py"), "google_genai", model.url, lab=lab, home=tmp_path)
    assert told.split()[0] == "lab" and model.offered == set(TOOLS)
