"""The two roles of a campaign as text: served as MCP prompts, installed as agent files."""

from importlib.resources import files
from typing import Literal


def contract(role: Literal["orchestrator", "worker"]) -> str:
    """The contract of a role, as Markdown."""
    return files(__name__).joinpath(f"{role}.md").read_text("utf-8")
