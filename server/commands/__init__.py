"""What a person runs: a module for each command of `autoresearch-mcp`, with its arguments, its examples and `run`."""
