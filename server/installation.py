"""How a child process finds this package when it is not installed, as in an unpacked wheel."""

import site
from pathlib import Path

_PACKAGE = Path(__file__).absolute().parents[1]


def import_environment() -> dict[str, str]:
    """Return the environment variables that a child Python needs to import this package.

    Returns:
        Nothing for an installed package, editable installs included: its Python finds it. Else `PYTHONPATH`.
    """
    home = _PACKAGE.parent
    unpacked = _PACKAGE.name == "autoresearch_mcp" and not (_PACKAGE / "pyproject.toml").exists()
    installed = str(home) in [*site.getsitepackages(), site.getusersitepackages()]
    return {"PYTHONPATH": str(home)} if unpacked and not installed else {}
