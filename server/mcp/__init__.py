"""The lab's MCP surface: tools, prompts and resources for any transport, stdio and Streamable HTTP."""
