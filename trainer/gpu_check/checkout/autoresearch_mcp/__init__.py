"""Makes a bare checkout importable as `autoresearch_mcp`, without installing it, once the folder above is on PYTHONPATH."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[4])]
