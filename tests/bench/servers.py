"""Our server on a lab, and the bare one, both over stdio."""

import os
import sys
from pathlib import Path

from mcp import StdioServerParameters

BARE = StdioServerParameters(command=sys.executable, args=[str(Path(__file__).with_name("bare_server.py"))])


def ours(root: Path) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-m", "server.cli", "serve", str(root)], env=dict(os.environ))
