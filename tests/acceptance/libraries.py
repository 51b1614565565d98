"""Sets up the client libraries that `make client-test` drives, each in an environment of its own: `python -m tests.acceptance.libraries`."""

import subprocess
import sys
from pathlib import Path

PLACE = Path(__file__).parents[2] / ".clients"
ENVIRONMENTS = {
    "openai-agents": ["openai-agents==0.24.0"],
    "pydantic-ai": ["pydantic-ai-slim[mcp]==2.68.0"],
    "langchain": ["langgraph==1.2.24", "langchain==1.5.2", "langchain-mcp-adapters==0.3.2"],
    "claude-agent-sdk": ["claude-agent-sdk==0.2.189"],
    "fastmcp-2": ["fastmcp==2.14.7"],
    "fastmcp-4": ["fastmcp==4.2.3"],
    "mcp-use": ["mcp-use==1.7.1"],
    "smolagents": ["smolagents[mcp]==1.26.0", "mcp<2", "websockets"],
    "google-genai": ["google-genai==3.6.1", "mcp==2.3.0"],
    "google-adk": ["google-adk[mcp]==2.13.0"],
}


def python(name: str) -> Path:
    """Return an environment's interpreter; it is there once the environment was set up whole."""
    return PLACE / name / "bin" / "python"


def is_ready(name: str) -> bool:
    """Return whether an environment holds what its line says."""
    ready = PLACE / name / ".ready"
    return ready.is_file() and ready.read_text("utf-8").split() == ENVIRONMENTS[name]


def main() -> None:
    """Set up what isn't ready."""
    for name, packages in ENVIRONMENTS.items():
        if not is_ready(name):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(PLACE / name)], check=True)
            how = ["install", "--quiet", "--disable-pip-version-check", *packages]
            subprocess.run([str(python(name)), "-m", "pip", *how], check=True)
            (PLACE / name / ".ready").write_text("\n".join(packages), encoding="utf-8")


if __name__ == "__main__":
    main()
