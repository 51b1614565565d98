"""Our server on a lab, and the bare one, both over stdio."""

import os
import sys
from pathlib import Path

from mcp import StdioServerParameters

# Both from compiled bytecode, as an installed server runs, whatever the caller's environment says of it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

BARE = StdioServerParameters(command=sys.executable, args=[str(Path(__file__).with_name("bare_server.py"))], env=ENVIRONMENT)


def ours(root: Path) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-P", "-m", "autoresearch_mcp.server.cli", "serve", str(root)], env=ENVIRONMENT
    )
