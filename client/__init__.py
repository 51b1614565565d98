"""The lab's tools as typed methods, for scripts: `Lab("http://127.0.0.1:8765/mcp")` or `Lab("my-lab")`, over MCP like any other client."""

from autoresearch_mcp.client.lab import Lab, Picture, Refused

__all__ = ["Lab", "Picture", "Refused"]
