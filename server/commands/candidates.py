"""Finds what of a user's repository may be the code that trains."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

TRAIN = "train.py"
PASSED_OVER = {"test", "tests", "docs", "doc", "examples", ".github", "notebooks", "build", "dist"}
_PROJECT = ("pyproject.toml", "setup.cfg", "setup.py")
_TRAINS = re.compile(
    rb"\.backward\(|\.fit\(|Trainer\(|\.train\(|\.learn\(|optimizer|optax|value_and_grad|jax\.grad|GradientTape|xgboost|lightgbm|sklearn"
)
_COMMAND = re.compile(r"\b(?:python[\d.]*|torchrun|accelerate launch|deepspeed|(?:uv|poetry|pdm|rye|hatch|pipenv) run)\s+([^\n`|;&]+)")
_ENTRY_POINT = re.compile(r"[\"'\s]([\w.-]+)\s*=\s*([A-Za-z_][\w.]*):\w+")
_BY_STEM = {"main": 50, "run": 40, "__main__": 40, "experiment": 40, "fit": 40, "learn": 40}
_TRAINING = re.compile(r"(?:(?:run|base|main)[_-]?)?(?:pre)?train(?:ing)?|finetun(?:e|ing)|train.*")
_OF_SOMETHING = re.compile(r".*[_-](?:(?:pre)?train|finetune)")
_PARTS = re.compile(r".*[_-](?:utils?|helpers?|tools|config|args|options|steps?|loops?|data|dataset|loader)")  # of training code, not it


@dataclass(frozen=True)
class Candidate:
    """Code of a repository that may be what trains.

    Attributes:
        path: of its file.
        module: by which it runs; empty where the file does.
        why: it was chosen, in words.
        score: the higher, the likelier.
    """

    path: str
    module: str
    why: str
    score: int

    @property
    def name(self) -> str:
        """How it is run, in words."""
        return f"python -m {self.module}" if self.module else f"python {self.path}"


def candidates(paths: Sequence[str], read: Callable[[str], bytes]) -> list[Candidate]:
    """Return what may be the code that trains, the likeliest first.

    Args:
        paths: all files of the repository.
        read: returns the content of one.
    """
    ranked = {path: (score, "by its name") for path in paths if (score := _by_name(path))}
    run = list(_run(paths, read))
    as_files = {path for path, _, as_module in run if not as_module}
    for path, why in (*((path, why) for path, why, _ in run), *_installed(paths, read)):
        ranked[path] = max(ranked.get(path, (0, "")), (85 if "train" in path else 45, why))
    found = []
    for path, (score, why) in ranked.items():
        code = read(path)
        if not code.strip():
            continue
        trains = 10 if _TRAINS.search(code) else 0
        inside = f"{path.rpartition('/')[0]}/__init__.py" in paths and path not in as_files
        module = path.removeprefix("src/").removesuffix(".py").removesuffix("/__main__").replace("/", ".") if inside else ""
        found.append(Candidate(path, module, why, score + trains - path.count("/")))
    if not found:  # nothing has such a name: then what is run and trains
        scripts = [path for path in paths if path.endswith(".py") and not _passed_over(path) and path not in _PROJECT]
        trains_itself = [path for path in scripts if _TRAINS.search(code := read(path)) and _runs(code)]
        found = [Candidate(path, "", "it trains where it is run", 20 - path.count("/")) for path in trains_itself]
    return sorted(found, key=lambda candidate: (-candidate.score, candidate.path))


def places(module: str) -> list[str]:
    """Return where a module may be."""
    path = module.replace(".", "/")
    return [f"{folder}{path}{end}" for folder in ("", "src/") for end in (".py", "/__main__.py")]


def _by_name(path: str) -> int:
    """Return how much a path looks like that of code that trains; 0 for not at all."""
    if not path.endswith(".py") or _passed_over(path):
        return 0
    stem = path.rpartition("/")[2].removesuffix(".py").lower()
    if path == TRAIN:
        return 100
    if stem == "trainer" or _PARTS.fullmatch(stem):
        return 0
    return 70 if _TRAINING.fullmatch(stem) else 65 if _OF_SOMETHING.fullmatch(stem) else _BY_STEM.get(stem, 0)


def _passed_over(path: str) -> bool:
    folders = path.split("/")[:-1]
    return len(folders) > 4 or any(folder in PASSED_OVER or folder.startswith(".") for folder in folders)


def _runs(code: bytes) -> bool:
    """Return whether a file does something where it is run: under `__main__`, or a training at its top level."""
    if b"__main__" in code:
        return True
    try:
        top = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    lines = code.splitlines()
    declared = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    done = [each for each in top if not isinstance(each, declared)]
    return any(_TRAINS.search(b"\n".join(lines[each.lineno - 1 : each.end_lineno])) for each in done)


def _run(paths: Sequence[str], read: Callable[[str], bytes]) -> Iterator[tuple[str, str, bool]]:
    """Yield the files that the README, a shell script or the Makefile runs, why they are named, and whether as modules."""
    readme = next((path for path in paths if path.lower() in ("readme.md", "readme.rst", "readme", "readme.txt")), None)
    scripts = [path for path in paths if (path.endswith(".sh") or path == "Makefile") and path.count("/") < 2 and not _passed_over(path)]
    for source in ([readme] if readme else []) + scripts[:20]:
        for words in _COMMAND.findall(read(source).decode("utf-8", "replace").replace("\\\n", " ")):
            if run := _named(words.split(), paths):
                yield run[0], f"its {source} runs it", run[1]


def _named(words: list[str], paths: Sequence[str]) -> tuple[str, bool] | None:
    """Return the file of the repository that a command runs, and whether as a module; None where it runs none."""
    for place, word in enumerate(words):
        if word == "-m":
            for path in places(words[place + 1]) if place + 1 < len(words) else ():
                if path in paths:
                    return path, True
        elif word.endswith(".py") and not word.startswith("-"):
            path = word.removeprefix("./")
            inside = [each for each in paths if each == path] or [each for each in paths if each.endswith(f"/{path}")]  # after a `cd`
            of_project = path in _PROJECT or path.rpartition("/")[2].startswith("test_")
            return (inside[0], False) if len(inside) == 1 and not of_project else None
    return None


def _installed(paths: Sequence[str], read: Callable[[str], bytes]) -> Iterator[tuple[str, str]]:
    """Yield the files that the project installs as commands, and why they are named."""
    for source in _PROJECT:
        text = read(source).decode("utf-8", "replace") if source in paths else ""
        for name, target in _scripts(text) if source.endswith(".toml") else _ENTRY_POINT.findall(text):
            for path in places(target.partition(":")[0]):
                if path in paths:
                    yield path, f"{source} has it as the command {name}"


def _scripts(pyproject: str) -> list[tuple[str, str]]:
    try:
        data = tomllib.loads(pyproject)
        tables: list[Mapping[str, object]] = [data.get("project", {}), data.get("tool", {}).get("poetry", {})]
        return [(name, str(target)) for table in tables for name, target in dict(table.get("scripts") or {}).items()]  # type: ignore[call-overload]
    except (ValueError, AttributeError, TypeError):
        return []
