"""How tests call tools: whole, as the structured answer, or as the words of a refusal."""

import json
from typing import Any

import anyio
from mcp import Client
from mcp.types import CallToolResult, TextContent

UNKNOWN = "e-000000000000000"


async def call(client: Client, tool: str, **arguments: Any) -> CallToolResult:
    with anyio.fail_after(20):
        return await client.call_tool(tool, arguments)


async def answer(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer, which must also be what the text says."""
    result = await call(client, tool, **arguments)
    assert not result.is_error, text(result)
    assert result.structured_content == json.loads(text(result))
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    result = await call(client, tool, **arguments)
    assert result.is_error
    return text(result)


def text(result: CallToolResult) -> str:
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


async def propose(client: Client, width: int, **more: Any) -> dict[str, Any]:
    edits = [{"path": "train.py", "search": "WIDTH = 64", "replace": f"WIDTH = {width}"}]
    return await answer(client, "propose_patch", hypothesis=f"A width of {width} fits the budget better.", edits=edits, **more)


async def launch(client: Client, width: int, replicates: int = 1) -> list[str]:
    commit = (await propose(client, width))["commit"]
    launched = await answer(client, "launch_training", commit=commit, replicates=replicates)
    return list(launched["experiments"])
