"""The commands of `autoresearch-mcp`: a module for each, with its arguments, its examples and `run`."""
