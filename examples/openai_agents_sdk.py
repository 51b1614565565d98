"""The lab's tools in the OpenAI Agents SDK, with a scripted model. `python examples/openai_agents_sdk.py autoresearch-mcp serve my-lab`.

Needs `pip install openai-agents`. For a real agent, leave `model` out of `Agent` and set $OPENAI_API_KEY.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, Runner, Usage, set_tracing_disabled
from agents.mcp import MCPServerStdio
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

HYPOTHESIS = "A third layer learns more in the same time."
SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("get_status", {}),
    ("propose_patch", {"hypothesis": HYPOTHESIS, "edits": [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}]}),
    ("write_memory", {"kind": "insight", "text": "Depth 3 is proposed, and not trained yet."}),
]


class Scripted(Model):
    """Calls the script's tools one after another, and then says that it is done."""

    def __init__(self) -> None:
        self.turn = 0

    async def get_response(self, *asked: Any, **more: Any) -> ModelResponse:
        """Return the next call."""
        self.turn += 1
        if self.turn > len(SCRIPT):
            text = ResponseOutputText(type="output_text", text="Done.", annotations=[])
            message = ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=[text])
            return ModelResponse(output=[message], usage=Usage(), response_id=None)
        name, arguments = SCRIPT[self.turn - 1]
        call = ResponseFunctionToolCall(type="function_call", call_id=f"c{self.turn}", name=name, arguments=json.dumps(arguments))
        return ModelResponse(output=[call], usage=Usage(), response_id=None)

    def stream_response(self, *asked: Any, **more: Any) -> AsyncIterator[Any]:
        """Refuse. A model must have this method, which `Runner.run_streamed` alone would call."""
        raise NotImplementedError("This script's model doesn't stream: use Runner.run.")


async def main(command: str, *arguments: str) -> None:
    """Let the agent work, and print what the tools answered."""
    set_tracing_disabled(True)
    async with MCPServerStdio({"command": command, "args": list(arguments)}, client_session_timeout_seconds=60) as server:
        print("tools:", *(tool.name for tool in await server.list_tools()))
        agent = Agent("researcher", instructions="Improve the lab's champion.", mcp_servers=[server], model=Scripted())
        result = await Runner.run(agent, "Propose one change, and note it.")
    for item in result.new_items:
        if item.type == "tool_call_output_item":
            print("answer:", item.output)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
