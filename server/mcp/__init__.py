"""The lab's MCP surface: tools, prompts and resources for any transport, and the stdio transport. Loads the MCP SDK."""

from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.mcp.stdio import serve_stdio

__all__ = ["build_server", "serve_stdio"]
