"""Runs code as `python train.py` or `python -m pkg.train` would, with its repository's own modules first (fixed).

Another interpreter, older perhaps, may run this file by its path: standard library only, and nothing newer than Python 3.8.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path


def run(root: str, entry: str, module: str, arguments: Sequence[str]) -> None:
    """Run a file or a module in this process.

    Args:
        root: the folder with the copy of the repository.
        entry: path of the file below it.
        module: name of the module that runs instead, or `module:function`, which is called; empty for the file.
        arguments: of the command line.

    Raises:
        ImportError: a package of the repository would be imported from an installed copy.
    """
    script = Path(root, entry)
    asked = [
        Path.cwd() / path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path
    ]  # set after this process began, perhaps
    places = [Path.cwd() if module else script.parent, Path(root), Path(root, "src"), *asked]
    first = [path for path in dict.fromkeys(map(str, places)) if Path(path).is_dir()]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in map(str, places[1:]) if path in first))  # for helpers
    elsewhere = dict.fromkeys(str(folder.parent) for folder in packages(Path(root)))  # where an installation would find packages: last
    sys.path[:] = [*first, *sys.path, *(path for path in elsewhere if path not in [*first, *sys.path])]
    refuse_installed_copies(Path(root))
    sys.argv = [str(script), *arguments]
    if ":" in module:
        call(module)
    elif module:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(script), run_name="__main__")


def call(target: str) -> None:
    """Call a function of a module, as a command does that `pip install` made of it, and exit as it says."""
    import importlib

    name, _, function = target.partition(":")
    sys.modules["__main__"] = types.ModuleType("__main__")  # a helper that is started anew imports no other program's
    ended = getattr(importlib.import_module(name), function)()
    sys.exit(ended if type(ended) is int else 0)  # what else it returns is no fault


def refuse_installed_copies(root: Path) -> None:
    """Refuse to go on where the repository's own package is installed as well, and Python would take the installed one.

    Raises:
        ImportError: its text says which, and what to do.
    """
    import importlib.util

    name = own_distribution(root)
    for folder in packages(root) if name else ():
        spec = importlib.util.find_spec(folder.name)
        if spec is None and folder.name in editable(name):
            place = "which no run can read"
        elif spec is None or spec.origin is None or root in Path(spec.origin).parents:
            continue
        elif belongs(Path(spec.origin), name) or folder.name in editable(name):
            place = str(Path(spec.origin).parent)
        else:
            continue
        within = folder.relative_to(root)
        raise ImportError(
            f"the package {folder.name} would be imported from where it is installed, {place}, not from {within}/ of this "
            f"repository, so no change to it would count. Uninstall it (pip uninstall {name}), or set env in [training] of lab.toml: "
            f'PYTHONPATH = "$HOME/{within.parent}".'
        )


def packages(root: Path) -> Iterator[Path]:
    """Yield the outermost packages below a folder."""
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith(".")]
        if "__init__.py" in files and Path(folder) != root:
            names[:] = []
            yield Path(folder)


def own_distribution(root: Path) -> str:
    """Return the name under which the repository is installed, as its pyproject.toml, setup.cfg or setup.py says; else empty."""
    named = r"name\s*=\s*[\"']?([A-Za-z0-9._-]+)"
    section = r"^\[(?:project|tool\.poetry|metadata)\]\s*$(?:\n(?!\[).*)*?\n[ \t]*" + named
    for name, form in (("pyproject.toml", section), ("setup.cfg", section), ("setup.py", r"(?:^[ \t]*|[(,][ \t]*)" + named)):
        try:
            text = Path(root, name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        match = re.search(form, text, re.MULTILINE)
        if match:
            return match.group(1)
    return ""


def belongs(origin: Path, name: str) -> bool:
    """Return whether a file was installed by a distribution."""
    from importlib import metadata

    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return False
    return any(Path(str(file.locate())).resolve() == origin.resolve() for file in files)


def editable(name: str) -> list[str]:
    """Return the packages of a distribution that `pip install -e`, or another tool's like, left where its sources are; none of any other."""
    from importlib import metadata

    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return []
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return []
    return [*(distribution.read_text("top_level.txt") or "").split(), re.sub(r"[-.]+", "_", name)]


if __name__ == "__main__":
    del sys.path[0]  # this file's own folder
    run(**json.loads(sys.argv[1]))
