"""Looks at a user's repository: what of it trains, what that needs, how it is measured, and what will be missing."""

import fnmatch
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.candidates import PASSED_OVER, TRAIN, Candidate, candidates, places
from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.goal import WORDS, Goal
from autoresearch_mcp.server.proposals import source
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.trainer.records import METRIC

ORIGINALS_DATA = "~/.cache/autoresearch"  # where the original's prepare.py puts its data
MOST_FILES = 200  # that lab.toml can name
MOST_BYTES = 16 << 20  # of all files that a run gets
_NOT_IN_SETTINGS = set("\\*?[:")
_NOT_FOR_RUNS = (".md", ".rst", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".ipynb", "LICENSE", ".bib")
_MEASURES = (
    r"loss|bpb|ppl|perplexity|error|rmse|mse|mae|mape|acc|accuracy|f1|auc|auroc|r2|bleu|wer|cer|iou|map|dice|reward|return|score|"
    r"log[_ -]?loss|nll|mean[_ ](?:squared|absolute)[_ ]error|mean[_ ]reward|balanced[_ ]accuracy"
)
_METRICS = (  # what is printed, the likeliest first: of held-out data, then without a word of which
    re.compile(rf"""["' (](?P<name>(?:val|valid|validation|test|eval|dev)[_/ ]?(?:{_MEASURES}))["']?\s*[:=\s|,]""", re.IGNORECASE),
    re.compile(rf"""["'](?P<name>{_MEASURES})["']?\s*[:=|,{{%]""", re.IGNORECASE),
)
_ORIGINAL = re.compile(rf"(?<![\w{{.]){METRIC}[\"']?\s*[:=]\s*[{{%\"'\d]")
_RUNNER = re.compile(
    r"(?:(?:uv|poetry|pdm|hatch|pixi) run )?python[\d.]*(?: -u)? |(?:uv|poetry|pdm|hatch|pixi) run |\./"
)  # before what it runs
_LFS = b"version https://git-lfs.github.com/spec/"


Ask = Callable[[Sequence[Candidate]], Candidate]


@dataclass(frozen=True)
class Asked:
    """What the owner says of the code on the command line; what is empty is looked for.

    Attributes:
        entry: a file of the repository, with arguments.
        module: a module of it, with arguments.
        editable: paths, folders or globs that proposals may touch.
        metric: the name of the metric that the code prints.
        ask: asks the owner which code trains, where several may; None takes the likeliest.
        goal: which way that metric is better.
        ask_goal: asks for it, where the name speaks against the default; None warns only.
        ask_metric: asks what a file prints, where nothing shows; None doesn't.
        include_submodules: tells whether the files of these submodules are to be copied; None doesn't.
    """

    entry: str = ""
    module: str = ""
    editable: Sequence[str] = ()
    metric: str = ""
    ask: Ask | None = None
    goal: Goal | None = None
    ask_goal: Callable[[str], Goal] | None = None
    ask_metric: Callable[[str], str] | None = None
    include_submodules: Callable[[Sequence[str]], bool] | None = None


NOTHING_ASKED = Asked()


@dataclass(frozen=True)
class Survey:
    """What a repository is as a lab: its part of the settings, and sentences for the owner."""

    own: settings.OwnCode
    path: str
    lines: Sequence[str]


def survey(repo: Repo, commit: str, asked: Asked, name: str) -> Survey:
    """Look at a repository's code.

    Args:
        repo: a copy of the user's repository.
        commit: the one to look at.
        asked: what the owner said.
        name: of the user's repository, for refusals.

    Raises:
        LabError: `no_train_file` where nothing trains or what was named is not there; `no_such_path` for a pattern that matches nothing;
            `no_metric` for a module that says nothing of one.
    """
    paths = repo.paths(commit)
    path, entry, module, lines = _choose(repo, commit, asked, paths, name)
    editable = _editable(asked.editable, paths, path, name)
    files, left_out = _files(repo, commit, paths, editable)
    code = repo.read(commit, path)
    files = (*files, *_markers(repo, commit, paths, code, files))[:MOST_FILES]
    metric, guessed = (asked.metric, []) if asked.metric else _metric(code, path, asked.ask_metric is not None)
    if not metric and not submits(code):
        metric = asked.ask_metric(path) if asked.ask_metric else ""
        if module and not metric:
            raise LabError(
                f"{path} never calls submit(), and its text names no metric that it prints. Name it with --metric. Nothing was made.",
                "no_metric",
            )
    data = ""
    if metric == METRIC and Path(ORIGINALS_DATA).expanduser().is_dir():
        others = repo.other_files(commit, [each for each in files if each.endswith(".py")])
        data = ORIGINALS_DATA if any(b"autoresearch" in text for text in (code, *others.values())) else ""
    goal, doubt = _goal(metric, asked)
    own = settings.OwnCode(files, metric, data, entry, module, editable, goal)
    missing = _missing(repo, commit, path, Editable([*editable, *files]))
    return Survey(own, path, [*lines, *left_out, *guessed, *doubt, *missing])


def submits(code: bytes) -> bool:
    """Return whether a training script keeps the contract, as far as its text shows."""
    return b"submit(" in code


def _choose(repo: Repo, commit: str, asked: Asked, paths: Sequence[str], name: str) -> tuple[str, str, str, list[str]]:
    """Return the file that trains, `entry`, `module` and what to tell the owner.

    Raises:
        LabError: `no_train_file`.
    """
    entry, module = _as_settings_say_it(asked, paths, name)
    if module:
        path = next((each for each in places(shlex.split(module)[0]) if each in paths), "")
    elif entry:
        path = shlex.split(entry)[0] if shlex.split(entry)[0] in paths else ""
    else:
        ranked = candidates(paths, lambda path: repo.read(commit, path))
        if not ranked:
            raise LabError(
                f"{name} has nothing that looks like a training script: no {TRAIN}, train*.py, main.py or command in its README or scripts. It has: "
                f"{_listed(paths)}. Name it with --entry FILE or --module NAME{_of_notebooks(paths)}. Nothing was made.",
                "no_train_file",
            )
        chosen = ranked[0]
        if chosen.path == TRAIN:
            return TRAIN, "", "", []
        chosen = asked.ask(ranked) if asked.ask and len(ranked) > 1 else chosen
        others = ", ".join(each.name for each in ranked[:4] if each is not chosen)
        line = f"`{chosen.name}` is what trains ({chosen.why})" + (f"; others: {others}. Choose with --entry or --module" if others else "")
        return chosen.path, "" if chosen.module else _quoted(chosen.path), chosen.module, [line]
    if not path:
        raise LabError(
            f"{name} has no {asked.module or asked.entry} at its last commit. It has: {_listed(paths)}. Nothing was made.", "no_train_file"
        )
    return path, entry if not module else "", module, []


def _as_settings_say_it(asked: Asked, paths: Sequence[str], name: str) -> tuple[str, str]:
    """Return `entry` and `module` of what the owner typed: a command line and a path will do for either."""
    if asked.module:
        word, *rest = shlex.split(asked.module)
        if not word.endswith(".py"):
            return "", asked.module
        return "", " ".join([word.removeprefix("./").removesuffix(".py").replace("/", "."), *map(_quoted, rest)])
    entry = asked.entry
    while entry.partition(" ")[0] not in paths and (match := _RUNNER.match(entry)):
        entry = entry[match.end() :].lstrip()
    if entry.startswith("-m "):
        return "", entry[3:].lstrip()
    entry = entry.removeprefix(f"{Path(name).absolute()}/")
    return _quoted(entry) if entry in paths else entry, ""


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[^\s'\"\\#]+", word) else shlex.quote(word)


def _of_notebooks(paths: Sequence[str]) -> str:
    """Return what helps where only notebooks train."""
    notebook = next((path for path in paths if path.endswith(".ipynb")), "")
    return f", after `jupyter nbconvert --to script {shlex.quote(notebook)}` and a commit" if notebook else ""


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(path for path in paths if path.endswith(".py"))[:400] or "no Python file"


def _editable(asked: Sequence[str], paths: Sequence[str], path: str, name: str) -> tuple[str, ...]:
    """Return the patterns for `editable`: what the owner named, folders and globs resolved; else the file that trains.

    Raises:
        LabError: `no_such_path`.
    """
    patterns: list[str] = []
    for pattern in (each.removeprefix("./") or "." for each in asked):
        folder = pattern.removesuffix("/**").removesuffix("/")
        if pattern == ".":
            patterns += [_top(each) for each in paths if not each.startswith(".")]
        elif any(each.startswith(f"{folder}/") for each in paths):
            patterns.append(f"{folder}/**")
        elif matching := [each for each in paths if fnmatch.fnmatchcase(each, pattern)]:
            patterns += matching
        else:
            raise LabError(f"--editable {pattern} matches no file of {name}. Nothing was made.", "no_such_path")
    return tuple(dict.fromkeys(patterns or [path]))


def _files(repo: Repo, commit: str, paths: Sequence[str], editable: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the patterns for `files`: what a run may need beside what is editable; and sentences on what is left out."""
    sizes = {path: size for path, size in repo.sizes(commit).items() if not path.startswith(".") and not path.endswith(_NOT_FOR_RUNS)}
    python = {_top(path) for path in sizes if path.endswith(".py")}
    sums: dict[str, int] = {}
    for path, size in sizes.items():
        if _top(path) in python or path.split("/")[0] not in PASSED_OVER:
            sums[_top(path)] = sums.get(_top(path), 0) + size
    names = [name for name in sums if name.isprintable() and not set(name.removesuffix("/**")) & _NOT_IN_SETTINGS and name not in editable]
    lines = []
    total = sum(sums[name] for name in names)
    for name in sorted(names, key=lambda name: (name in python, -sums[name])):
        if total > MOST_BYTES:
            names.remove(name)
            total -= sums[name]
            lines.append(
                f"warning: {name} has {sums[name] >> 20} MB, and a run's code may have {MOST_BYTES >> 20} MB: it was left out of [training] files. "
                "Data belongs into a folder that [training] data names"
            )
    return tuple(names[:MOST_FILES]), lines


def _markers(repo: Repo, commit: str, paths: Sequence[str], code: bytes, files: Sequence[str]) -> list[str]:
    """Return the hidden files of the top that the code names, such as `.project-root`."""
    hidden = [path for path in paths if path.startswith(".") and "/" not in path and not path.startswith((".git", ".env"))]
    texts = [code, *(data for path, data in repo.matching(commit, Editable(files)).items() if path.endswith(".py"))] if hidden else []
    return [path for path in hidden if any(path.encode() in text for text in texts)]


def _top(path: str) -> str:
    return f"{path.split('/')[0]}/**" if "/" in path else path


def _metric(code: bytes, path: str, asks: bool = False) -> tuple[str, list[str]]:
    """Guess the metric that code prints, from its text; empty where it keeps the contract, or nothing shows.

    Args:
        code: The text.
        path: Its file.
        asks: Whether the owner can be asked: then a name that doesn't say of which data is no guess.
    """
    if submits(code):
        return "", []
    printed = [line for line in code.decode("utf-8", "replace").splitlines() if re.search(r"print|log|info|write", line)]
    printed = [line for line in printed if "self.log" not in line or "test" in line]  # Lightning prints what it logs of a test
    if any(_ORIGINAL.search(line) for line in printed):
        return METRIC, []
    name = next((match["name"] for kind in _METRICS[: 1 if asks else 2] for line in printed if (match := kind.search(line))), "")
    if not name:
        return "", []
    return name, [f"the metric is {name}, which {path} seems to print; name another with --metric"]


def _goal(metric: str, asked: Asked) -> tuple[Goal | None, list[str]]:
    """Return which way the metric is better, where that is known, and what to tell the owner."""
    if asked.goal or not metric:
        return asked.goal, []
    if not (doubt := settings.MetricSection(name=metric).doubt()):
        return None, []
    if asked.ask_goal is None:
        return None, [f"warning: {doubt}"]
    goal = asked.ask_goal(metric)
    return goal, [f"{WORDS[goal]}: [metric] goal in lab.toml says so"]


def _missing(repo: Repo, commit: str, path: str, given: Editable) -> list[str]:
    """Return a sentence for each kind of thing that a run will miss."""
    lines = []
    contents = {name: data for name, data in repo.matching(commit, given).items() if name.endswith(".py") or len(data) < 200}
    if pointers := sorted(name for name, data in contents.items() if data.startswith(_LFS)):
        lines.append(
            f"warning: {_some(pointers)}: only a pointer of Git LFS is in git. Name a folder with the files as [training] data in lab.toml"
        )
    if lacking := unresolved({name: data for name, data in contents.items() if name.endswith(".py")}, path):
        lines.append(
            f"warning: {path} imports {_some(lacking)}, which {sys.executable} doesn't have. Install it there, or name the interpreter that "
            "has it as [training] python in lab.toml"
        )
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def unresolved(files: Mapping[str, bytes], path: str) -> list[str]:
    """Return the modules that a file needs, itself or through other files, and that neither is one of them nor installed here.

    Args:
        files: Python files by path.
        path: where to begin.
    """
    own: dict[str, list[str]] = {}
    for name in files:
        for part in {*name.split("/")[:-1], name.rpartition("/")[2].removesuffix(".py")}:
            own.setdefault(part, []).append(name)
    pending, looked, lacking = [path], {path}, dict[str, None]()
    while pending:
        try:
            needed = source.needed_imports(source.parsed(files[pending.pop()]))
            names = [name for name, _ in needed]
        except (KeyError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for name in names:
            if name not in own and not source.importable(name):
                lacking[name] = None
            new = [other for other in _imported(own.get(name, []), name, path) if other not in looked]
            looked |= set(new)
            pending += new
    return sorted(lacking)


def _imported(files: list[str], name: str, path: str) -> list[str]:
    """Return those of the repository's files called so that an import reaches from a script; all of them where it can't be told."""
    places = (path[: path.rfind("/") + 1], "", "src/")
    first = ([each for each in files if each == f"{place}{name}.py" or each.startswith(f"{place}{name}/")] for place in places)
    return next(filter(None, first), files)
