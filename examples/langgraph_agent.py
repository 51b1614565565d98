"""The lab's tools in LangGraph, with a scripted model. `python examples/langgraph_agent.py autoresearch-mcp serve my-lab`.

Needs `pip install langgraph langchain langchain-mcp-adapters`. For a real agent, give `create_agent` a model's name instead.
"""

import asyncio
import sys
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

HYPOTHESIS = "A third layer learns more in the same time."
SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("get_status", {}),
    ("propose_patch", {"hypothesis": HYPOTHESIS, "edits": [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}]}),
    ("write_memory", {"kind": "insight", "text": "Depth 3 is proposed, and not trained yet."}),
]


class Scripted(FakeMessagesListChatModel):
    """Calls the script's tools one after another, and then says that it is done."""

    def bind_tools(self, tools: Any, **more: Any) -> "Scripted":
        """Take any tools: the script knows which it calls."""
        return self


async def main(command: str, *arguments: str) -> None:
    """Let the agent work, and print what the tools answered."""
    calls = [AIMessage("", tool_calls=[{"name": name, "args": args, "id": name, "type": "tool_call"}]) for name, args in SCRIPT]
    client = MultiServerMCPClient({"lab": {"transport": "stdio", "command": command, "args": list(arguments)}})
    async with client.session("lab") as session:
        tools = await load_mcp_tools(session)
        print("tools:", *(tool.name for tool in tools))
        agent = create_agent(Scripted(responses=[*calls, AIMessage("Done.")]), tools, system_prompt="Improve the lab's champion.")
        result = await agent.ainvoke({"messages": [("user", "Propose one change, and note it.")]})
    for message in result["messages"]:
        if isinstance(message, ToolMessage):
            print("answer:", message.text)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
