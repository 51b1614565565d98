"""The yardstick: the smallest server the SDK makes, with one tool."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("bare", version="1")


@server.tool()
async def nothing() -> dict[str, int]:
    """Does nothing."""
    return {"n": 1}


if __name__ == "__main__":
    server.run()
