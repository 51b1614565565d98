"""Knows the MCP clients: where each keeps its configuration, in which form, and how to add a server there without harm to the rest."""

from autoresearch_mcp.server.clients.entries import NAME, TOKEN, Address, Launch, launch, target
from autoresearch_mcp.server.clients.formats import ConfigFormat, merged
from autoresearch_mcp.server.clients.json_text import JsonText
from autoresearch_mcp.server.clients.table import CLIENTS, McpClient

__all__ = ["CLIENTS", "NAME", "TOKEN", "Address", "ConfigFormat", "JsonText", "Launch", "McpClient", "launch", "merged", "target"]
