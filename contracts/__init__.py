"""What agents are told: the two roles of a campaign as text, served as MCP prompts and installed as agent files, and the tools' names."""

from importlib.resources import files
from typing import Literal

TOOLS = (
    "get_status",
    "read_file",
    "propose_patch",
    "launch_training",
    "launch_sweep",
    "wait_for_experiments",
    "get_experiment",
    "read_log",
    "cancel_experiment",
    "query_experiments",
    "write_memory",
    "search_memory",
    "claim_idea",
    "promote_commit",
    "plot_progress",
)
"""The names of all tools, in the order in which a campaign needs them."""


def contract(role: Literal["orchestrator", "worker"]) -> str:
    """Return the contract of a role, as Markdown."""
    return files(__name__).joinpath(f"{role}.md").read_text("utf-8")
