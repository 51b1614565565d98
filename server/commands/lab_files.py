"""Writes the files that a lab starts with, and looks at a user's code that becomes a lab."""

import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from autoresearch_mcp.contracts import TOOLS, contract
from autoresearch_mcp.server import settings
from autoresearch_mcp.server.clients import CLIENTS, NAME, launch, merged
from autoresearch_mcp.server.commands.candidates import TRAIN
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.paths import SETTINGS
from autoresearch_mcp.server.untrusted import clean
from autoresearch_mcp.trainer import prepare

AGENT = ".claude/agents/experiment-worker.md"
MCP_CONFIG = ".mcp.json"
PURPOSES = {
    TRAIN: "the file that agents improve; branch `research` points to the best",
    SETTINGS: "the settings",
    "orchestrator.md": "the contract to start a campaign with",
    AGENT: "the worker, as a Claude Code agent",
    MCP_CONFIG: "the server, for Claude Code opened here",
}
_FIXED = "trainer"  # folder of the fixed files, for agents to read
_FILE_TOOLS = ("Read", "Grep", "Edit", "Write", "Bash(git:*)", "Bash(autoresearch-mcp checkout:*)", "Bash(autoresearch-mcp try:*)")
_WORKER_HEAD = """\
---
name: experiment-worker
description: Improves the lab's training script by experiment. Give it a direction and a name to sign with; start several at once.
tools: {tools}
---

"""


def starting_files(lab_toml: str, fixed_folder: str | None) -> dict[str, bytes]:
    """Return the files of a new lab, by path.

    Args:
        lab_toml: the text of its settings.
        fixed_folder: where the fixed files go, to be read; None leaves them out.
    """
    tools = ", ".join([*_FILE_TOOLS, *(f"mcp__{NAME}__{tool}" for tool in TOOLS)])
    fixed = {name: path.read_bytes() for name, path in prepare.fixed_files().items() if not name.endswith("__init__.py")}
    return {
        TRAIN: fixed.pop("train.py"),
        SETTINGS: lab_toml.encode(),
        "orchestrator.md": contract("orchestrator").encode(),
        AGENT: (_WORKER_HEAD.format(tools=tools) + contract("worker")).encode(),
        MCP_CONFIG: mcp_config(b""),
        **({f"{fixed_folder}/{file}": data for file, data in sorted(fixed.items())} if fixed_folder else {}),
    }


def settings_text(
    name: str, profile: str, budget_s: float | None, unsandboxed: Literal["refuse", "allow"], own: settings.OwnCode | None
) -> str:
    """Return a new lab's `lab.toml`, with a name that it can hold."""
    return settings.template(clean(name)[:80] or "lab", profile, budget_s, unsandboxed, own)


def mcp_config(present: bytes) -> bytes:
    """Return a project's `.mcp.json` with the lab's server added.

    Raises:
        LabError: `bad_config`.
    """
    try:
        text = present.decode("utf-8", "replace")
        client = CLIENTS["claude-code"]
        return merged(client.format, text, client.section, NAME, client.stdio(launch(".")), Path()).encode()
    except ValueError as error:
        raise LabError(
            f"The repository's {MCP_CONFIG} cannot take the lab's server: {error}. Correct it there. Nothing was made.", "bad_config"
        ) from None


def free_folder(paths: Collection[str]) -> str:
    """Return the folder for the fixed files: one that is not among a repository's paths."""
    taken = {path.split("/")[0] for path in paths}
    names = itertools.chain((_FIXED, "autoresearch_trainer"), (f"autoresearch_trainer_{n}" for n in itertools.count(2)))
    return next(name for name in names if name not in taken)
