"""Reads what the owner typed of the code that trains: a path, a module, or a whole command line as a shell would run it."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from autoresearch_mcp.server.commands.candidates import command_of, start_of
from autoresearch_mcp.server.commands.launch_lines import lines_of, place_of, quoted, sources

_CHANGE = re.compile(r"cd\s+(\S+)\s*(?:&&|;)\s*")
_VARIABLE = re.compile(r"([A-Za-z_]\w*)=(\S*)\s+")
_RUNNER = re.compile(
    r"(?:\S*/)?(?:python[\d.]*(?:\.exe)?|ipython|torchrun|accelerate|deepspeed|horovodrun|composer|lightning|fabric|mpirun|mpiexec|srun|uv|poetry|pdm|rye|"
    r"hatch|pipenv|pixi|conda|time|nohup|env)(?=\s)"
)
_OF_THE_DEVICE = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")  # the lab's own affair


@dataclass(frozen=True)
class Typed:
    """What trains, as lab.toml says it.

    Attributes:
        path: of its file; empty where the repository has none.
        entry: the file with its arguments; empty for a module.
        module: with its arguments.
        cwd: the folder where it starts; empty for the top.
        env: variables that it finds set.
        hint: what to name instead, where there is no such file.
    """

    path: str
    entry: str = ""
    module: str = ""
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""


def typed_module(text: str, paths: Sequence[str]) -> Typed:
    """Read what was typed as a module; a path will do.

    Args:
        text: the module, or `module:function`, with arguments.
        paths: all files of the repository.
    """
    word, rest = _first(text)
    if word.endswith(".py"):
        word = word.removeprefix("./").removeprefix("src/").removesuffix(".py").replace("/", ".")
    name = word.partition(":")[0]
    path = place_of(name, paths)
    return Typed(path, module=f"{word}{rest}", cwd=start_of(name, path) if path else "")


def typed_entry(text: str, paths: Sequence[str], read: Callable[[str], bytes], root: str) -> Typed:
    """Read what was typed as a file: its path, or a command line that runs it, a module or an installed command.

    Args:
        text: the command line.
        paths: all files of the repository.
        read: returns the content of one.
        root: the repository's folder, which may stand in front of a path.
    """
    text, cwd, env = text.strip().removeprefix(f"{root}/"), "", dict[str, str]()
    if text in paths and text.endswith(".py"):
        return Typed(text, quoted(text))
    if match := _CHANGE.match(text):
        cwd, text = match[1].strip("/").removeprefix("./"), text[match.end() :]
    while match := _VARIABLE.match(text):
        env |= {match[1]: match[2].strip("\"'")} if match[1] not in _OF_THE_DEVICE else {}
        text = text[match.end() :]
    runs = _RUNNER.match(text) is not None
    at = 0
    while at < len(text):
        word, rest = _first(text[at:])
        if word in ("-m", "--module") and (runs or at == 0):
            module = typed_module(rest, paths)
            if module.path:
                return Typed(module.path, module=module.module, cwd=cwd or module.cwd, env=env)
        path = word.removeprefix(f"{root}/").removeprefix("./")
        whole = f"{cwd}/{path}" if cwd else path
        if path.endswith(".py") and whole in paths:
            return Typed(whole, f"{quoted(whole)}{rest}", cwd=cwd, env=env)
        if command := command_of(word, paths, read):
            return Typed(command.path, module=f"{command.module}{rest}", cwd=command.cwd, env=env)
        if not runs:
            break
        at = len(text) - len(rest.lstrip())
    return Typed("", hint=_hint(text, paths, read))


def _first(text: str) -> tuple[str, str]:
    """Return the first word, without quotes, and what stands behind it."""
    text = text.strip()
    for end in [*(match.start() for match in re.finditer(r"\s", text)), len(text)]:
        try:
            (word,) = shlex.split(text[:end])
        except ValueError:  # in the middle of a quote, or of nothing
            continue
        return word, text[end:]
    return text, ""


def _hint(text: str, paths: Sequence[str], read: Callable[[str], bytes]) -> str:
    """Return what a shell script or a tool runs, where that was typed."""
    words = text.split()
    tools = {path.rpartition("/")[2].lower().removesuffix("file"): path for path in reversed(sources(paths))}
    named = [path for word in words if (path := word.removeprefix("./")) in sources(paths)]
    named += [tools[word] for word in words[:1] if word in tools]
    shown = dict.fromkeys(
        f"`--{'module' if line.module else 'entry'} {shlex.quote(f'{line.module or line.path} {line.arguments}'.rstrip())}`"
        for line in lines_of(paths, read)
        if line.source in named
    )
    return f"A run starts Python itself: name what {named[0]} runs: {', '.join([*shown][:3])}." if shown else ""
