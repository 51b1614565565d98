"""The lab's tools in the Claude Agent SDK, with a scripted model. `python examples/claude_agent_sdk_agent.py autoresearch-mcp serve my-lab`.

Needs `pip install claude-agent-sdk`. For a real agent, leave `env` out and sign in: the stand-in of the Messages API is here for a try only.
"""

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, SystemMessage, ToolResultBlock, UserMessage, query

SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("get_status", {}),
    ("propose_patch", {"hypothesis": "Depth helps.", "edits": [{"path": "train.py", "search": "DEPTH = 2", "replace": "DEPTH = 3"}]}),
    ("write_memory", {"kind": "insight", "text": "Depth 3 is proposed, and not trained yet."}),
]


class Scripted(BaseHTTPRequestHandler):
    """Calls the script's tools one after another, as the Messages API would, and then says that it is done."""

    def do_POST(self) -> None:
        """Answer with a stream of one block."""
        turn = self.rfile.read(int(self.headers["Content-Length"])).count(b'"tool_result"')
        if turn < len(SCRIPT):
            start = {"type": "tool_use", "id": f"toolu_{turn}", "name": f"mcp__lab__{SCRIPT[turn][0]}", "input": {}}
            delta, why = {"type": "input_json_delta", "partial_json": json.dumps(SCRIPT[turn][1])}, "tool_use"
        else:
            start, delta, why = {"type": "text", "text": ""}, {"type": "text_delta", "text": "Done."}, "end_turn"
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {"id": "m", "type": "message", "role": "assistant", "model": "scripted", "content": [], "usage": usage}
        events = [{"type": "message_start", "message": message}, {"type": "content_block_start", "index": 0, "content_block": start}]
        events += [{"type": "content_block_delta", "index": 0, "delta": delta}, {"type": "content_block_stop", "index": 0}]
        events += [{"type": "message_delta", "delta": {"stop_reason": why}, "usage": usage}, {"type": "message_stop"}]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write("".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode())


async def main(command: str, *arguments: str) -> None:
    """Let the agent work, and print what the tools answered."""
    api = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    threading.Thread(target=api.serve_forever, daemon=True).start()
    env = {"ANTHROPIC_BASE_URL": f"http://127.0.0.1:{api.server_port}", "ANTHROPIC_API_KEY": "none"}
    lab: Any = {"command": command, "args": list(arguments)}
    options = ClaudeAgentOptions(mcp_servers={"lab": lab}, allowed_tools=["mcp__lab"], tools=[], setting_sources=[], env=env)
    async for message in query(prompt="Propose one change, and note it.", options=options):
        if isinstance(message, SystemMessage) and message.subtype == "init":
            print("tools:", *(name.removeprefix("mcp__lab__") for name in message.data["tools"]))
        for block in message.content if isinstance(message, UserMessage) else []:
            if isinstance(block, ToolResultBlock):
                print("answer:", block.content)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
