"""What is installed beside this package, and how a child process finds this package itself, as in an unpacked wheel."""

import importlib.util
import os
import site
import sys
from importlib.machinery import FileFinder
from pathlib import Path

_PACKAGE = Path(__file__).absolute().parents[1]
_present: set[str] = set()  # modules that were there; looking again takes milliseconds, and many calls ask


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be imported. Sees what was installed a moment ago. Thread-safe."""
    if module not in _present and (_is_found(module) or _is_found(module, anew=True)):
        _present.add(module)
    return module in _present


def _is_found(module: str, anew: bool = False) -> bool:
    """Return whether Python finds a module; `anew` has it list the folders again where it imports from."""
    if anew:  # not with importlib.invalidate_caches: that fails where another thread imports something meanwhile
        for folder in [*sys.path]:
            if isinstance(finder := sys.path_importer_cache.get(folder), FileFinder):
                finder.invalidate_caches()
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


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
