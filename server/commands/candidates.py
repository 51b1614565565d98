"""Finds what of a user's repository may be the code that trains."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoresearch_mcp.server.commands.launch_lines import PROJECT, LaunchLine, arguments_of, folder_of, lines_of, place_of

TRAIN = "train.py"
PASSED_OVER = {"test", "tests", "docs", "doc", "examples", ".github", "notebooks", "build", "dist"}
_TRAINS = re.compile(
    rb"\.backward\(|\.fit\(|Trainer\(|\.train\(|\.learn\(|optimizer|optax|value_and_grad|jax\.grad|GradientTape|xgboost|lightgbm|sklearn"
)
_RELATIVE = re.compile(rb"^[ \t]*from[ \t]+(\.+)", re.MULTILINE)
_NEEDS_ARGUMENTS = re.compile(
    rb"add_argument\(\s*[\"'][^-\"']|required\s*=\s*True|add_subparsers|@click\.(?:argument|group)|@\w+\.command|Typer\(|Fire\(|"
    rb"\.Argument\(|sys\.argv\[[1-9]|docopt\(|CLI\(|mark_flags?_as_required|HfArgumentParser\("
)
_ENTRY_POINT = re.compile(r"[\"'\s]([\w.-]+)\s*=\s*([A-Za-z_][\w.]*:\w+)")
_BY_STEM = {"main": 50, "run": 40, "__main__": 40, "experiment": 40, "fit": 40, "learn": 40}
_TRAINING = re.compile(r"(?:(?:run|base|main)[_-]?)?(?:pre)?train(?:ing)?|finetun(?:e|ing)|train.*")
_OF_SOMETHING = re.compile(r".*[_-](?:(?:pre)?train|finetune)")
_PARTS = re.compile(r".*[_-](?:utils?|helpers?|tools|config|args|options|steps?|loops?|data|dataset|loader)")  # of training code, not it
_SERVES = re.compile(rb"\b(?:Flask|FastAPI)\(|^import (?:streamlit|gradio)\b", re.MULTILINE)
_SERVING = 15  # taken off what answers by what was trained
TEMPLATE = "{{"  # in the path of what cookiecutter and copier fill in
_DOES_NOTHING = 70  # taken off what is only imported from
_PACKAGE = "__init__"
_DECLARED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.AnnAssign, ast.Pass)


@dataclass(frozen=True)
class Candidate:
    """Code of a repository that may be what trains.

    Attributes:
        path: of its file.
        module: by which it runs; empty where the file does. `pkg.cli:main` is a function, as an installed command calls it.
        why: it was chosen, in words.
        score: the higher, the likelier.
        cwd: the folder where it has to start, so that its module is found; empty for the top.
        arguments: that it needs, as its README gives them.
        offered: those that the README gives and that it does without.
    """

    path: str
    module: str
    why: str
    score: int
    cwd: str = ""
    arguments: str = ""
    offered: str = ""

    @property
    def name(self) -> str:
        """How it is run, in words."""
        return f"{self.short} {self.arguments}".rstrip()

    @property
    def short(self) -> str:
        """How it is run, without its arguments."""
        return f"{self.module}()" if ":" in self.module else f"python -m {self.module}" if self.module else f"python {self.path}"


@dataclass(frozen=True)
class _Command:
    """A command that the project installs: what says so, its name, the function that it calls, and the file of that."""

    source: str
    name: str
    target: str
    path: str


def candidates(paths: Sequence[str], read: Callable[[str], bytes]) -> list[Candidate]:
    """Return what may be the code that trains, the likeliest first.

    Args:
        paths: all files of the repository.
        read: returns the content of one.
    """
    repository = _Repository(paths, read)
    return sorted(repository.named() or repository.unnamed(), key=lambda candidate: (-candidate.score, candidate.path))


class _Repository:
    """What is known of a repository's code and of how it is run."""

    def __init__(self, paths: Sequence[str], read: Callable[[str], bytes]) -> None:
        self._paths, self._known, self._read = paths, set(paths), read
        self._lines = [line for line in lines_of(paths, read) if TEMPLATE not in line.path]
        self._installed = list(_installed(paths, read))

    def named(self) -> list[Candidate]:
        """Return what may train by its name, because something runs it, or because it is installed as a command."""
        ranked = {path: (score, "by its name") for path in self._paths if (score := _by_name(path))}
        reasons = [(line.path, f"its {line.source} runs it", line.source) for line in self._lines]
        reasons += [(command.path, f"{command.source} has it as the command {command.name}", "") for command in self._installed]
        for path, why, source in reasons:
            ranked[path] = max(ranked.get(path, (0, "")), (85 if "train" in path else 45 if "/" not in source else 30, why))
        return [self._candidate(path, why, score) for path, (score, why) in ranked.items() if self._read(path).strip()]

    def unnamed(self) -> list[Candidate]:
        """Return what trains where it is run, whatever its name; examples where there is nothing else."""
        scripts = [path for path in self._paths if path.endswith(".py") and path not in PROJECT]
        training = [path for path in scripts if _TRAINS.search(code := self._read(path)) and _acts(code)]
        shown = [path for path in training if not _passed_over(path)] or [path for path in training if path.startswith("examples/")]
        return [self._candidate(path, "it trains where it is run", 10) for path in shown]

    def _candidate(self, path: str, why: str, score: int) -> Candidate:
        code = self._read(path)
        score += (10 if _TRAINS.search(code) else 0) - (_SERVING if _SERVES.search(code) else 0) - path.count("/")
        command = next((command for command in self._installed if command.path == path), None)
        typed = arguments_of(command.name, self._paths, self._read) if command else None
        acts = _acts(code) and not _is_package(path)
        if command and not acts:  # nothing but the command calls it
            module, given, bare = command.target, typed, typed == ""
        else:
            score = score if acts else max(1, score - _DOES_NOTHING)
            own = [line for line in self._lines if line.path == path]
            module, bare = self._module(path, code, own), any(line.bare for line in own)
            given = next((line.arguments for line in own if line.arguments), typed)
        needs = bool(given) and not bare and _NEEDS_ARGUMENTS.search(code) is not None
        cwd = start_of(module.partition(":")[0], path) if module else ""
        return Candidate(path, module, why, score, cwd, (given or "") if needs else "", "" if needs or bare else given or "")

    def _module(self, path: str, code: bytes, own: Sequence[LaunchLine]) -> str:
        """Return as which module a file is run; empty where it runs as a file."""
        levels = max((len(dots) for dots in _RELATIVE.findall(code)), default=0)
        folders = path.split("/")[:-1]
        as_module = next((line.module for line in own if line.module), "")
        if as_module and (levels or all(line.module for line in own)):
            return as_module
        if not folders or not (levels or (not own and f"{'/'.join(folders)}/__init__.py" in self._known)):
            return ""
        strange = max((number + 1 for number, folder in enumerate(folders) if not folder.isidentifier()), default=0)
        at = len(folders)
        while at > strange and f"{'/'.join(folders[:at])}/__init__.py" in self._known:
            at -= 1
        if at == len(folders):  # packages without an __init__.py begin at the top
            at = max(strange, 1 if folders[0] == "src" and len(folders) > 1 else 0)
        at = max(strange, min(at, len(folders) - levels))
        module = ".".join([*folders[at:], path.rpartition("/")[2]]).removesuffix(".py").removesuffix(".__main__")
        return module if module != "__main__" else ""


def command_of(name: str, paths: Sequence[str], read: Callable[[str], bytes]) -> Candidate | None:
    """Return what a command runs that the project installs under this name; None where it installs none such."""
    command = next((command for command in _installed(paths, read) if command.name == name), None)
    if command is None:
        return None
    module = command.target.partition(":")[0]
    runs = command.target if _is_package(command.path) or not _acts(read(command.path)) else module
    return Candidate(command.path, runs, "", 0, start_of(module, command.path))


def start_of(module: str, path: str) -> str:
    """Return where a module has to start so that Python finds its file; empty for the top, from which `src` is found too."""
    below = module.replace(".", "/")
    root = path.removesuffix(".py").removesuffix("/__main__").removesuffix(f"/{_PACKAGE}").removesuffix(below).rstrip("/")
    return "" if root == "src" else root


def _by_name(path: str) -> int:
    """Return how much a path looks like that of code that trains; 0 for not at all."""
    if not path.endswith(".py") or _passed_over(path):
        return 0
    stem = path.rpartition("/")[2].removesuffix(".py").lower()
    if path == TRAIN:
        return 100
    if stem == "trainer" or _PARTS.fullmatch(stem):
        return 0
    return 73 if stem == "train" else 70 if _TRAINING.fullmatch(stem) else 65 if _OF_SOMETHING.fullmatch(stem) else _BY_STEM.get(stem, 0)


def _is_package(path: str) -> bool:
    """Return whether a file is a package's own, which is imported and never run."""
    return path.rpartition("/")[2] == f"{_PACKAGE}.py"


def _passed_over(path: str) -> bool:
    folders = path.split("/")[:-1]
    return len(folders) > 4 or any(folder in PASSED_OVER or folder.startswith(".") or TEMPLATE in folder for folder in folders)


def _acts(code: bytes) -> bool:
    """Return whether a file does something where it is run, besides declaring what others import."""
    if b"__main__" in code:
        return True
    try:
        top = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    if top and all(isinstance(each, ast.Import | ast.ImportFrom) for each in top):
        return True  # it runs what it imports
    lines = code.splitlines()
    return any(_does(each, b"\n".join(lines[each.lineno - 1 : each.end_lineno])) for each in top)


def _does(statement: ast.stmt, text: bytes) -> bool:
    """Return whether a statement of the top level does more than declare something."""
    match statement:
        case ast.If() | ast.Try():
            return any(isinstance(inner, ast.Expr | ast.For | ast.While | ast.With) for inner in ast.walk(statement))
        case ast.Assign():
            return _TRAINS.search(text) is not None
        case ast.Expr(value=ast.Constant()):
            return False
    return not isinstance(statement, _DECLARED)


def _installed(paths: Sequence[str], read: Callable[[str], bytes]) -> Iterator[_Command]:
    """Yield the commands that the project, or a package of it in a folder, installs, and whose functions are the repository's."""
    sources = [path for path in paths if path.rpartition("/")[2] in PROJECT and path.count("/") < 3 and not _passed_over(path)]
    for source in sorted(sources, key=lambda path: (path.count("/"), path)):
        text, part = read(source).decode("utf-8", "replace"), [path for path in paths if path.startswith(folder_of(source))]
        for name, target in _scripts(text) if source.endswith(".toml") else _ENTRY_POINT.findall(text):
            module = target.partition(":")[0]
            if path := place_of(module, part):
                yield _Command(source, name, target, path)
            elif path := place_of(f"{module}.{_PACKAGE}", part):
                yield _Command(source, name, *_home(target, path, part, read))


def _home(target: str, path: str, paths: Sequence[str], read: Callable[[str], bytes]) -> tuple[str, str]:
    """Return a function of a package as that of the module which its `__init__.py` imports it from, and the file; as it is, where it imports none."""
    package, _, function = target.partition(":")
    try:
        top = ast.parse(read(path)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return target, path
    imports = ((each, alias) for each in top if isinstance(each, ast.ImportFrom) for alias in each.names)
    for statement, alias in imports:
        above = package.split(".")[: 1 - statement.level or None] if statement.level else []
        module = ".".join([*above, *filter(None, [statement.module])])
        if function == (alias.asname or alias.name) and (place := place_of(module, paths)):
            return f"{module}:{alias.name}", place
    return target, path


def _scripts(pyproject: str) -> list[tuple[str, str]]:
    try:
        data = tomllib.loads(pyproject)
        tables: list[Mapping[str, object]] = [data.get("project", {}), data.get("tool", {}).get("poetry", {})]
        return [(name, str(target)) for table in tables for name, target in dict(table.get("scripts") or {}).items()]  # type: ignore[call-overload]
    except (ValueError, AttributeError, TypeError):
        return []
