"""Looks at a user's repository: what of it trains, what that needs, how it is measured, and what will be missing."""

import fnmatch
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.candidates import PASSED_OVER, TEMPLATE, TRAIN, Candidate, candidates
from autoresearch_mcp.server.commands.launch_lines import folder_of, quoted
from autoresearch_mcp.server.commands.printed import guess, submits
from autoresearch_mcp.server.commands.reach import reached, unresolved
from autoresearch_mcp.server.commands.typed import Typed, typed_entry, typed_module
from autoresearch_mcp.server.editable import Editable
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.goal import WORDS, Goal
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.trainer.records import METRIC

ORIGINALS_DATA = "~/.cache/autoresearch"  # where the original's prepare.py puts its data
MOST_FILES = 200  # that lab.toml can name
MOST_EMPTY = 50  # of those, for folders that hold nothing else
MOST_BYTES = 16 << 20  # of all files that a run gets
SMALL = 1 << 20  # what has less is left out last
_NOT_IN_SETTINGS = set("\\*?[:")
_NOT_FOR_RUNS = (".md", ".rst", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".ipynb", "LICENSE", ".bib")
_PROGRAMS = {".r": "Rscript", ".jl": "julia"}  # that start what is not Python's
_FAR = re.compile(r"(?:^|=)(?:~?/|\.\./)")  # an argument that names a place outside of the repository
_CONFIGURATION = re.compile(rb"[\w./-]+\.(?:ya?ml|toml|json|cfg|ini)\b")
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
        take_arguments: tells whether it is to run as this command, with arguments that its README gives it; None doesn't.
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
    take_arguments: Callable[[str], bool] | None = None


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
    chosen, lines = _choose(repo, commit, asked, paths, name)
    path, module = chosen.path, chosen.module
    editable = _editable(asked.editable, paths, path, name)
    files, left_out = _files(repo, commit, paths, editable)
    code = repo.read(commit, path)
    files = (*files, *_markers(repo, commit, paths, code, files))[:MOST_FILES]
    given = repo.matching(commit, Editable([*editable, *files]))
    needs = reached(given, path)
    runs = {path: code, **{at: given[at] for at in needs}}
    metric, guessed = (asked.metric, []) if asked.metric else guess(runs, path, asked.ask_metric is not None)
    if not metric and not submits(*runs.values()):
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
    own = settings.OwnCode(files, metric, data, chosen.entry, module, editable, goal, cwd=chosen.cwd, env=chosen.env)
    narrow = [] if asked.editable else _narrow(path, runs, given)
    return Survey(own, path, [*lines, *narrow, *left_out, *guessed, *doubt, *_missing(repo, commit, path, given, needs)])


def _choose(repo: Repo, commit: str, asked: Asked, paths: Sequence[str], name: str) -> tuple[Typed, list[str]]:
    """Return the code that trains and what to tell the owner.

    Raises:
        LabError: `no_train_file`.
    """

    def read(path: str) -> bytes:
        return repo.read(commit, path)

    if asked.entry or asked.module:
        typed = typed_module(asked.module, paths) if asked.module else typed_entry(asked.entry, paths, read, str(Path(name).absolute()))
        if not typed.path:
            raise LabError(
                f"{name} has no Python code {asked.module or asked.entry} at its last commit. "
                f"{typed.hint or _of_others([each for each in paths if each in asked.entry]) or f'It has: {_listed(paths)}.'} Nothing was made.",
                "no_train_file",
            )
        return typed, []
    ranked = candidates(paths, read)
    if not ranked:
        raise LabError(
            f"{name} has nothing that looks like a training script: no {TRAIN}, train*.py, main.py or command in its README or scripts. It has: "
            f"{_listed(paths)}. {_way_out(paths)} Nothing was made.",
            "no_train_file",
        )
    chosen = asked.ask(ranked) if asked.ask and len(ranked) > 1 else ranked[0]
    if chosen.offered and asked.take_arguments and asked.take_arguments(f"{chosen.name} {chosen.offered}"):
        chosen = replace(chosen, arguments=chosen.offered, offered="")
    others = ", ".join(each.short for each in ranked[:4] if each is not chosen and each.path != chosen.path)
    lines = [f"`{chosen.name}` is what trains ({chosen.why})" + (f"; others: {others}. Choose with --entry or --module" if others else "")]
    if far := [word for word in (chosen.arguments or chosen.offered).split() if _FAR.search(word)]:
        lines.append(
            f"warning: {_some(far)}: outside the repository a run reads only the folder that [training] data names, which is $AUTORESEARCH_DATA in "
            "these arguments, and writes nowhere but in its own folder"
        )
    what = chosen.module or quoted(chosen.path)
    if chosen.offered:
        flag = "--module" if chosen.module else "--entry"
        lines.append(f"its README gives it arguments; to have them: {flag} {shlex.quote(f'{what} {chosen.offered}')}")
    command = f"{what} {chosen.arguments}".rstrip()
    bare = not chosen.module and command == TRAIN
    entry, module = ("", command) if chosen.module else ("" if bare else command, "")
    return Typed(chosen.path, entry, module, chosen.cwd), lines


def _way_out(paths: Sequence[str]) -> str:
    """Return what helps where no Python file seems to train: a name, a notebook's code, or a Python file that starts another program."""
    if not any(path.endswith(".py") for path in paths) and (hint := _of_others(paths)):
        return hint
    if any(TEMPLATE in path for path in paths):
        return "It is a template: make a project of it, as by `cookiecutter`, commit that, and name its folder."
    notebooks = [path for path in paths if path.endswith(".ipynb")]
    convert = f", after `jupyter nbconvert --to script {shlex.quote(_likeliest(notebooks))}` and a commit" if notebooks else ""
    return f"Name it with --entry FILE or --module NAME{convert}."


def _of_others(paths: Sequence[str]) -> str:
    """Return how a lab starts code that is not Python's; empty where none of these is R's or Julia's."""
    codes = [path for path in paths if path.lower().endswith(tuple(_PROGRAMS)) and not path.startswith(".")]
    if not codes:
        return ""
    path = _likeliest(codes)
    program = next(program for end, program in _PROGRAMS.items() if path.lower().endswith(end))
    return (
        f"A run starts Python: add a {TRAIN} that starts yours by `subprocess.run({json.dumps([program, path], ensure_ascii=False)}, check=True)`, commit it, "
        f"and name the metric that {path} prints with --metric."
    )


def _likeliest(paths: Sequence[str]) -> str:
    return next((path for path in paths if "train" in path.rpartition("/")[2].lower()), paths[0])


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
    every = repo.sizes(commit)
    sizes = {path: size for path, size in every.items() if not path.startswith(".") and not path.endswith((*_NOT_FOR_RUNS, "/.gitignore"))}
    python = {_top(path) for path in sizes if path.endswith(".py")}
    sums: dict[str, int] = {}
    for path, size in sizes.items():
        if _top(path) in python or path.split("/")[0] not in PASSED_OVER:
            sums[_top(path)] = sums.get(_top(path), 0) + size
    names = [name for name in sums if name.isprintable() and not set(name.removesuffix("/**")) & _NOT_IN_SETTINGS and name not in editable]
    lines = []
    total = sum(sums[name] for name in names)
    for name in sorted(names, key=lambda name: (sums[name] < SMALL, name in python, -sums[name])):
        if total > MOST_BYTES:
            names.remove(name)
            total -= sums[name]
            lines.append(
                f"warning: {name} has {sums[name] >> 20} MB, and a run's code may have {MOST_BYTES >> 20} MB: it was left out of [training] files. "
                "Data belongs into a folder that [training] data names"
            )
    return (*names, *_emptied(every)[:MOST_EMPTY])[:MOST_FILES], lines


def _emptied(paths: Collection[str]) -> list[str]:
    """Return the files `.gitignore` by which folders are there that hold nothing else: code may write into those."""
    below = Counter(path[:at] for path in paths for at, letter in enumerate(path) if letter == "/")
    kept = [path for path in paths if path.endswith("/.gitignore") and not path.startswith(".") and path.isprintable()]
    return [path for path in kept if below[path.removesuffix("/.gitignore")] == 1 and not set(path) & _NOT_IN_SETTINGS]


def _markers(repo: Repo, commit: str, paths: Sequence[str], code: bytes, files: Sequence[str]) -> list[str]:
    """Return the hidden files of the top that the code names, such as `.project-root`."""
    hidden = [path for path in paths if path.startswith(".") and "/" not in path and not path.startswith((".git", ".env"))]
    texts = [code, *(data for path, data in repo.matching(commit, Editable(files)).items() if path.endswith(".py"))] if hidden else []
    return [path for path in hidden if any(path.encode() in text for text in texts)]


def _top(path: str) -> str:
    return f"{path.split('/')[0]}/**" if "/" in path else path


def _narrow(path: str, runs: Mapping[str, bytes], given: Collection[str]) -> list[str]:
    """Return a sentence that says what proposals may not touch, where code runs other files of the repository or reads its configuration.

    Args:
        path: Of the file that is started.
        runs: The texts of the files that run.
        given: The files that may be read.
    """
    others = [other for other, code in runs.items() if other != path and code.strip()]
    read = [name.decode("ascii", "replace").removeprefix("./") for code in runs.values() for name in _CONFIGURATION.findall(code)]
    others += [name for name in dict.fromkeys(read) if name in given]
    if not others:
        return []
    all_folders = dict.fromkeys(folder_of(other) or other for other in others)
    folders = [
        each for each in all_folders if not any(each != other and each.startswith(other) for other in all_folders if other.endswith("/"))
    ]
    has_it = path.startswith(tuple(each for each in folders if each.endswith("/")))
    wider = " ".join(map(shlex.quote, [*([] if has_it else [path]), *folders[:4]]))
    return [f"proposals may change {path} alone, not {_some(others)}; to widen that: --editable {wider}"]


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


def _missing(repo: Repo, commit: str, path: str, given: Mapping[str, bytes], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each kind of thing that a run will miss."""
    lines = [
        f"warning: {link} is a link to {to[:200]}, which is not in the repository, so a run doesn't have it. Name the folder that it leads to as "
        "[training] data in lab.toml"
        for link, to in list(repo.idle_links(commit).items())[:5]
    ]
    contents = {name: data for name, data in given.items() if name.endswith(".py") or len(data) < 200}
    if pointers := sorted(name for name, data in contents.items() if data.startswith(_LFS)):
        lines.append(
            f"warning: {_some(pointers)}: only a pointer of Git LFS is in git. Name a folder with the files as [training] data in lab.toml"
        )
    if lacking := unresolved(given, needs):
        lines.append(
            f"warning: {path} imports {_some(lacking)}, which {sys.executable} doesn't have. Install it there, or name the interpreter that "
            "has it as [training] python in lab.toml"
        )
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
