"""Reads the command lines by which a repository runs its own code, out of its README, scripts and tools, or out of what its owner typed."""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

PROJECT = ("pyproject.toml", "setup.cfg", "setup.py")
_READMES = ("readme.md", "readme.rst", "readme", "readme.txt")
_TOOLS = (
    "makefile",
    "gnumakefile",
    "justfile",
    "dockerfile",
    "mlproject",
    "dvc.yaml",
    "taskfile.yml",
    "taskfile.yaml",
    "pixi.toml",
    "snakefile",
    "docker-compose.yml",
    "procfile",
    "pyproject.toml",
    "tox.ini",
)
_SHELL = (".sh", ".bash", ".slurm", ".sbatch")
_MOST_SCRIPTS = 20
_RUN = r"(?:uv|poetry|pdm|rye|hatch|pipenv|pixi) run"
_COMMAND = re.compile(
    r"(?:\bpython[\d.]*|\$[({]?PY(?:THON)?\d?[)}]?|\btorchrun|\baccelerate launch|\bdeepspeed|\bhorovodrun|\bcomposer|\blightning run model|"
    rf"\bfabric run|\b{_RUN})\s+([^\n`|;&]+)|(?<![\w./])\./(\w[^\n`|;&\s]*\.py\b[^\n`|;&]*)"
)
_AT_ITS_START = re.compile(
    r"(?:.*`)?[\s$>!%@-]*(?:[A-Za-z_]\w*=\S*\s+)*(?:\S*/)?(?:(?:srun|time|nohup|mpirun|env)\b.*)?$"
)  # of code, not of prose
_PLACEHOLDER = re.compile(r"[<>{}…]|^\[|\.\.\.|path[/_]to|your[/_-]|\$|^[A-Z][A-Z_]{2,}$|=[A-Z][A-Z_]{2,}$")
_SWEEPS = ("-m ", "--multirun")  # of Hydra: many trainings
_FLAGS_OF_MODULES = ("-m", "--module")


@dataclass(frozen=True)
class LaunchLine:
    """One command line that runs code of the repository.

    Attributes:
        path: of the file that it runs.
        module: by which it runs that; empty where it runs the file.
        arguments: behind it; empty where there are none that could be taken as they stand.
        source: the file that says so.
        bare: whether it stands without any argument.
    """

    path: str
    module: str
    arguments: str = ""
    source: str = ""
    bare: bool = True


def lines_of(paths: Sequence[str], read: Callable[[str], bytes]) -> Iterator[LaunchLine]:
    """Yield the command lines of the README, of shell scripts and of the tools that run things.

    Args:
        paths: all files of the repository.
        read: returns the content of one.
    """
    for source in sources(paths):
        text, places = text_of(source, read), ["", folder_of(source)]
        if not source.endswith(_SHELL):  # those are mostly run from the top
            places.reverse()
        for match in _COMMAND.finditer(text):
            line = parsed(_words(match[1] or match[2]), paths, places)
            if line is None:
                continue
            before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
            prose = source.rpartition("/")[2].lower() in _READMES and not _AT_ITS_START.match(before)
            arguments = "" if prose or line.arguments.startswith(_SWEEPS) else line.arguments
            yield LaunchLine(line.path, line.module, arguments, source, line.bare)


def sources(paths: Sequence[str]) -> list[str]:
    """Return the files that may say how the repository's code is run, the README first, and those of its top before those of its parts."""
    near = [path for path in paths if path.count("/") < 3 and not path.startswith((".", "docs/", "tests/", "test/"))]
    near.sort(key=lambda path: path.count("/"))
    readmes = [path for path in near if path.rpartition("/")[2].lower() in _READMES]
    tools = [path for path in near if path.rpartition("/")[2].lower() in _TOOLS]
    scripts = [path for path in near if path.endswith(_SHELL)]
    first = [path for path in readmes[:1] if "/" not in path]
    return [*first, *tools[:_MOST_SCRIPTS], *scripts[:_MOST_SCRIPTS], *[path for path in readmes if "/" in path][:_MOST_SCRIPTS]]


def text_of(source: str, read: Callable[[str], bytes]) -> str:
    """Return a text with each command in one line: those that go on in the next, and those that are lists of words."""
    text = re.sub(r"\\\r?\n", " ", read(source).decode("utf-8", "replace"))
    return re.sub(r"[\"']\s*,\s*[\"']", " ", text)


def folder_of(path: str) -> str:
    """Return the folder of a file with its slash; empty for the top."""
    return path[: path.rfind("/") + 1]


def parsed(words: Sequence[str], paths: Sequence[str], places: Sequence[str] = ("",)) -> LaunchLine | None:
    """Return what a command runs of the repository; None where it runs nothing of it.

    Args:
        words: of the command, whatever runs the code among them or not.
        paths: all files of the repository.
        places: folders with their slashes, where it may start, the likeliest first; elsewhere only where nothing else is called so.
    """
    for at, word in enumerate(words):
        if word in _FLAGS_OF_MODULES:
            module = words[at + 1] if at + 1 < len(words) else ""
            parts = [[each for each in paths if each.startswith(folder)] for folder in (*places, "")]
            if path := next(filter(None, (place_of(module, part) for part in parts)), ""):
                return _line(path, module, words[at + 2 :])
        elif word.endswith(".py") and not word.startswith("-"):
            path = word.removeprefix("./")
            inside = [f"{folder}{path}" for folder in places if f"{folder}{path}" in paths][:1]
            inside = inside or [each for each in paths if each.endswith(f"/{path}")]  # after a `cd`
            of_project = path in PROJECT or path.rpartition("/")[2].startswith("test_")
            return _line(inside[0], "", words[at + 1 :]) if len(inside) == 1 and not of_project else None
    return None


def place_of(module: str, paths: Iterable[str]) -> str:
    """Return the file of a module, wherever its package lies; empty where it is none of the repository, or may be several."""
    if not module or not all(part.isidentifier() for part in module.split(".")):
        return ""
    ends = [f"{module.replace('.', '/')}{end}" for end in (".py", "/__main__.py")]
    usual = [f"{folder}{end}" for folder in ("", "src/") for end in ends]
    known = set(paths)
    below = [path for path in known if path.endswith(tuple(f"/{end}" for end in ends))]
    return next((path for path in usual if path in known), below[0] if len(below) == 1 else "")


def arguments_of(command: str, paths: Sequence[str], read: Callable[[str], bytes]) -> str | None:
    """Return the arguments that a command which the project installs is given in the README; None where it isn't there."""
    form = re.compile(rf"^(?:.*`)?[\s$>]*(?:{_RUN}\s+)?{re.escape(command)}(?:[ \t]+([^\n`|;&]*))?[ \t\r]*(?:`|$)", re.MULTILINE)
    for source in sources(paths):
        if match := form.search(text_of(source, read)):
            return usable(_words(match[1] or ""))
    return None


def usable(words: Sequence[str]) -> str:
    """Return arguments as they could be typed; empty where some stand for what the reader has to put in."""
    return "" if any(_PLACEHOLDER.search(word) for word in words) else " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """Return a word as a command line has it."""
    return word if re.fullmatch(r"[^\s'\"\\#]+", word) else shlex.quote(word)


def _line(path: str, module: str, rest: Sequence[str]) -> LaunchLine:
    return LaunchLine(path, module, usable(rest), bare=not rest)


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = text.split()
    return [word for each in words if (word := each.strip("\"'`,)]*"))]
