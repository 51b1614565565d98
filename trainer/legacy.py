"""Lets a train.py of an older lab go on importing the contract as `trainer` (fixed).

Before version 0.2 the package was installed as `trainer`. A repository that has a `trainer` of its own gets its own.
"""

import sys
from pathlib import Path

_PACKAGE = __package__ or "autoresearch_mcp.trainer"
_OLD = "trainer"


def alias_contract(code: Path) -> None:
    """Make the loaded modules of this package importable by their old names, in this process.

    Args:
        code: directory of the run's own files, which come first.
    """
    if (code / _OLD).exists() or (code / f"{_OLD}.py").exists():
        return
    loaded = [name for name in sys.modules if name == _PACKAGE or name.startswith(f"{_PACKAGE}.")]
    sys.modules.update({f"{_OLD}{name.removeprefix(_PACKAGE)}": sys.modules[name] for name in loaded})
