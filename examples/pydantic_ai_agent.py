"""The lab's tools in pydantic-ai, with a scripted model. `python examples/pydantic_ai_agent.py autoresearch-mcp serve my-lab`.

Needs `pip install 'pydantic-ai-slim[mcp]'`. For a real agent, give `Agent` a model's name instead, such as "anthropic:claude-sonnet-4-5".
"""

import asyncio
import sys
from typing import Any

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

HYPOTHESIS = "A third layer learns more in the same time."
SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("get_status", {}),
    ("propose_patch", {"hypothesis": HYPOTHESIS, "edits": [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}]}),
    ("write_memory", {"kind": "insight", "text": "Depth 3 is proposed, and not trained yet."}),
]


def scripted(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Call the script's tools one after another, and then say that it is done."""
    turn = sum(isinstance(message, ModelResponse) for message in messages)
    if turn == 0:
        print("tools:", *(tool.name for tool in info.function_tools))
    return ModelResponse([ToolCallPart(*SCRIPT[turn])] if turn < len(SCRIPT) else [TextPart("Done.")])


async def main(command: str, *arguments: str) -> None:
    """Let the agent work, and print what the tools answered."""
    lab = MCPToolset(StdioTransport(command, list(arguments)), init_timeout=60)
    agent = Agent(FunctionModel(scripted), toolsets=[lab], instructions="Improve the lab's champion.")
    async with agent:
        result = await agent.run("Propose one change, and note it.")
    for message in result.all_messages():
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                print("answer:", part.model_response_str())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
