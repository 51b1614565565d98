"""The lab's tools in the OpenAI Agents SDK, with a scripted model. `python examples/openai_agents_sdk.py autoresearch-mcp serve my-lab`.

Needs `pip install openai-agents`. For a real agent, leave `model` out of `Agent` and set $OPENAI_API_KEY.
"""

import asyncio
import json
import sys
from typing import Any

import httpx2
from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio
from openai import AsyncOpenAI

HYPOTHESIS = "A third layer learns more in the same time."
SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("get_status", {}),
    ("propose_patch", {"hypothesis": HYPOTHESIS, "edits": [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}]}),
    ("write_memory", {"kind": "insight", "text": "Depth 3 is proposed, and not trained yet."}),
]


def scripted(request: httpx2.Request) -> httpx2.Response:
    """Call the script's tools one after another, as the service would, and then say that it is done."""
    turn = sum(message["role"] == "tool" for message in json.loads(request.content)["messages"])
    message: dict[str, Any] = {"role": "assistant", "content": "Done."}
    if turn < len(SCRIPT):
        name, arguments = SCRIPT[turn]
        function = {"name": name, "arguments": json.dumps(arguments)}
        message = {"role": "assistant", "tool_calls": [{"id": f"c{turn}", "type": "function", "function": function}]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if turn < len(SCRIPT) else "stop"}
    return httpx2.Response(200, json={"id": "r", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]})


async def main(command: str, *arguments: str) -> None:
    """Let the agent work, and print what the tools answered."""
    set_tracing_disabled(True)
    service = AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(scripted)))
    model = OpenAIChatCompletionsModel("scripted", service)
    async with MCPServerStdio({"command": command, "args": list(arguments)}, client_session_timeout_seconds=60) as server:
        print("tools:", *(tool.name for tool in await server.list_tools()))
        agent = Agent("researcher", instructions="Improve the lab's champion.", mcp_servers=[server], model=model)
        result = await Runner.run(agent, "Propose one change, and note it.")
    for item in result.new_items:
        if item.type == "tool_call_output_item":
            print("answer:", item.output)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
