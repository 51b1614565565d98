"""Starts runs as `autoresearch_mcp.trainer.launch` does, and knows the miniature profile besides."""

from autoresearch_mcp.trainer import launch
from autoresearch_mcp.trainer.gpu_check import profiles

if __name__ == "__main__":
    profiles.register()
    launch.main()
