"""A lab's server as clients start it, and what they do with it."""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters

from autoresearch_mcp.server.proposals.repo import Repo

HERE = Path(__file__).parents[2]


def server(root: Path) -> StdioServerParameters:
    command = ["-P", "-m", "autoresearch_mcp.server.cli", "serve", str(root)]
    return StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ) | {"PYTHONPATH": str(HERE)})


async def answer(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error and result.structured_content is not None, result.content
    content: dict[str, Any] = result.structured_content
    return content


async def promote_a_gain(root: Path) -> None:
    """Propose what the launcher of `tests/bench/drawing_launcher.py` measures as 5 sd better, train it until decided, and promote it."""
    edits = [{"path": "train.py", "search": "UNEMBEDDING_LR = 0.004", "replace": "UNEMBEDDING_LR = 0.004500001"}]
    idea = {"hypothesis": "A faster unembedding lowers val_bpb.", "author": "ada", "edits": edits}
    with anyio.fail_after(180):
        async with Client(server(root)) as client:
            commit = (await answer(client, "propose_patch", **idea))["commit"]
            launched = await answer(client, "launch_training", commit=commit, until="decided", author="ada")
            while not (await answer(client, "wait_for_experiments", ids=[launched["until_decided"]], timeout_s=30))["done"]:
                pass
            promoted = await answer(client, "promote_commit", commit=commit, author="ada")
            status = await answer(client, "get_status")
    assert promoted["promoted"], promoted
    assert status["champion"]["commit"] == commit and Repo(root).champion().startswith(commit)
    assert not status.get("warnings"), status["warnings"]
