"""The yardstick: the smallest server the SDK makes, with one tool. Over stdio, or over HTTP where a port is given."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("bare", version="1", log_level="WARNING")


@server.tool()
async def nothing() -> dict[str, int]:
    """Does nothing."""
    return {"n": 1}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]), stateless_http=True)
    else:
        server.run()
