"""Follows the imports of a repository's code: which of its files run, and which modules they need that are nowhere."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

from autoresearch_mcp.server.commands.launch_lines import place_of
from autoresearch_mcp.server.proposals import source

_Import = ast.Import | ast.ImportFrom
_TARGET = re.compile(rb"^\s*_target_:\s*[\"']?([\w.]+)\.\w+", re.MULTILINE)


def reached(files: Mapping[str, bytes], path: str) -> dict[str, list[str]]:
    """Return each file that runs whenever one does, itself first, with the first names of its absolute imports.

    Args:
        files: of the repository, by path. What Hydra's configuration names as `_target_` runs where one of the files imports Hydra.
        path: where to begin.
    """
    python = {name: data for name, data in files.items() if name.endswith(".py")}
    begun = dict(_reached(python, [path]))
    if any("hydra" in names for names in begun.values()):
        named = (
            match.decode("ascii") for name, data in files.items() if name.endswith((".yaml", ".yml")) for match in _TARGET.findall(data)
        )
        begun |= _reached(python, [*begun, *filter(None, (place_of(module, python) for module in dict.fromkeys(named)))])
    return begun


def _reached(files: Mapping[str, bytes], paths: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each Python file that runs whenever some do, of which the first is started. See `reached`."""
    own: dict[str, list[str]] = {}
    for name in files:
        for part in {*name.split("/")[:-1], name.rpartition("/")[2].removesuffix(".py")}:
            own.setdefault(part, []).append(name)
    pending, looked = [*paths], set(paths)
    while pending:
        at = pending.pop(0)
        try:
            tree = source.parsed(files[at])
        except (KeyError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        yield at, [name for name, _ in source.needed_imports(tree)]
        found = [other for statement in source.import_statements(tree) for other in _imported(files, own, statement, at, paths[0])]
        new = [other for other in dict.fromkeys(found) if other not in looked]
        looked |= set(new)
        pending += new


def unresolved(files: Mapping[str, bytes], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the modules that files need, and that neither is one of the repository's nor installed here.

    Args:
        files: all of the repository's.
        needs: what each of those imports that is reached; see `reached`.
    """
    own = {part for name in files if name.endswith(".py") for part in (*name.split("/")[:-1], name.rpartition("/")[2].removesuffix(".py"))}
    lacking = dict[str, None]()
    for at, names in needs.items():
        board = ["tensorboard"] if b"torch.utils.tensorboard" in files[at] and "torch" in names else []
        lacking |= dict.fromkeys(name for name in (*names, *board) if name not in own and not source.importable(name))
    return sorted(lacking)


def _imported(files: Mapping[str, bytes], own: Mapping[str, Sequence[str]], statement: _Import, at: str, path: str) -> Sequence[str]:
    """Return the files that an import statement reaches.

    Args:
        files: All of the repository's.
        own: Those that are called so or lie in a folder called so, by name.
        statement: In the file `at`.
        at: See there.
        path: Of the script that is started.
    """
    if isinstance(statement, ast.Import):
        names = [alias.name for alias in statement.names]
    else:
        module = statement.module or ""
        names = [module, *(f"{module}.{alias.name}".lstrip(".") for alias in statement.names)]
        if statement.level:
            above = at.split("/")[: -statement.level]
            return _modules(files, "/".join(above) + "/" if above else "", names) if statement.level <= at.count("/") + 1 else []
    reached: list[str] = []
    for first in dict.fromkeys(name.partition(".")[0] for name in names):
        called = own.get(first, [])
        places = (path[: path.rfind("/") + 1], "", "src/")
        place = next((each for each in places if any(file.startswith((f"{each}{first}.py", f"{each}{first}/")) for file in called)), None)
        if place is None and source.importable(first):
            continue
        reached += called if place is None else _modules(files, place, [name for name in names if name.partition(".")[0] == first])
    return reached


def _modules(files: Mapping[str, bytes], place: str, names: Sequence[str]) -> list[str]:
    """Return the files of modules, and of the packages that they are in."""
    parts = [name.split(".") for name in names]
    inside = dict.fromkeys("/".join(each[:end]) for each in parts for end in range(len(each) + 1))
    ends = (".py", "/__init__.py")
    return [file for each in inside for end in ends if (file := f"{place}{each}{end}".replace("//", "/")) in files]
