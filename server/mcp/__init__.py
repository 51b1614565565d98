"""The lab's MCP surface: tools, prompts and resources in `app.build_server`, the stdio transport in `stdio.serve_stdio`.

Importing a submodule loads the MCP SDK, so nothing is imported here: `autoresearch-mcp --help` stays fast.
"""
