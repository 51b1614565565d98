"""What is installed beside this package, and how a child process finds this package itself, as in an unpacked wheel."""

import importlib.util
import os
import site
import sys
import threading
from pathlib import Path

_PACKAGE = Path(__file__).absolute().parents[1]
_present: set[str] = set()  # modules that were there; looking again takes milliseconds, and many calls ask
_LOOKING = threading.Lock()


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported. Sees what was installed a moment ago. Thread-safe."""
    if module in _present:
        return True
    with _LOOKING:  # invalidate_caches is not thread-safe
        importlib.invalidate_caches()
        try:
            there = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            there = False
    if there:
        _present.add(module)
    return there


def import_environment() -> dict[str, str]:
    """Return the environment variables that a child Python needs to import this package.

    Returns:
        `PYTHONPATH` for a package that is not installed: an unpacked wheel, or a bare checkout as `trainer/gpu_check` runs it. An empty
        mapping for one that is, editable installs included: Python finds it.
    """
    if sys.modules[__name__.partition(".")[0]].__file__ is not None:  # only a bare checkout makes the outermost package from a file
        return {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    home = _PACKAGE.parent
    unpacked = _PACKAGE.name == "autoresearch_mcp" and not (_PACKAGE / "pyproject.toml").exists()
    installed = str(home) in [*site.getsitepackages(), site.getusersitepackages()]
    return {"PYTHONPATH": str(home)} if unpacked and not installed else {}
