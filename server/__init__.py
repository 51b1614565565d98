"""The lab and its MCP surface. Imports neither torch nor anything heavy; see `lab.py` for the use cases."""

__version__ = "0.1.0"
