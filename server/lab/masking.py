"""Paths of the machine that trained, taken out of what training code printed: they help no agent, and say who runs the lab and where.

- A file of the run is named relative to the run: `train.py`, `scratch/...`.
- A file of the lab begins with `<lab>`, one of an installed package with `site-packages`, one of this program's Python with `<env>`.
- A home directory is `~`, on this machine and on others whose logs are in the shared log.

Other absolute paths stay, such as those of system libraries or of data that lab.toml names.
"""

import functools
import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

from autoresearch_mcp.server import paths
from autoresearch_mcp.server.models import Experiment

_START = r"(?:(?<=file://)|(?<![\w.\-/~>]))"  # a path's beginning, not the middle of one or of another URL
_PART = r"/[^/\s'\":<>|]+"
_END = r"(?![\w.\-])"  # the end of a folder's name
_SYSTEM = {"/", "/usr", "/usr/local"}  # a Python there gives nothing away


def mask_paths(text: str, root: Path | None = None) -> str:
    """Return the text with this machine's paths shortened.

    Args:
        text: some lines of a log, or a message.
        root: the lab's directory.
    """
    for needles, pattern, replacement in _rules(root):
        if any(needle in text for needle in needles):
            text = pattern.sub(replacement, text)
    return text


def without_paths(e: Experiment, root: Path) -> Experiment:
    """Return the experiment with this machine's paths taken out of its log and its failure."""
    failure = e.failure
    if failure is not None:
        lines = [mask_paths(line, root) for line in failure.lines]
        failure = failure.model_copy(update={"message": mask_paths(failure.message, root), "lines": lines})
    return e.model_copy(update={"log_tail": mask_paths(e.log_tail, root), "failure": failure})


@functools.cache
def _rules(root: Path | None) -> list[tuple[list[str], re.Pattern[str], str]]:
    """Return the rules, the most particular first: strings of which the text must hold one, a pattern, and what to put in its place."""
    rules: list[tuple[list[str], str, str]] = []
    labs = [re.escape(lab) for lab in _spellings(root)] if root is not None else []
    for lab in [*labs, rf"{_START}(?:{_PART})*"]:
        run = rf"{lab}/{re.escape(paths.STATE)}/runs/e-[0-9a-z]+/\d+(?:/code)?"
        rules += [([paths.STATE], rf"{run}/", ""), ([paths.STATE], rf"{run}{_END}", ".")]
    rules += [(_spellings(root), rf"{_START}{lab}{_END}", "<lab>") for lab in labs] if root is not None else []
    rules.append((["-packages/"], rf"{_START}(?:{_PART})*/(?=(?:site|dist)-packages/)", ""))
    own = {Path(paths.__file__).parents[1]: "<autoresearch-mcp>"}
    own |= dict.fromkeys(map(Path, (sys.prefix, sys.exec_prefix, sys.base_prefix)), "<env>")
    folders = {spelling: name for folder, name in own.items() for spelling in _spellings(folder) if spelling not in _SYSTEM}
    for folder in sorted(folders, key=len, reverse=True):
        rules.append(([folder], rf"{_START}{re.escape(folder)}{_END}", folders[folder]))
    homes = [spelling for spelling in [*_spellings(Path.home()), "/root"] if spelling not in _SYSTEM]
    anyones = "|".join([*map(re.escape, homes), f"/home{_PART}", f"/Users{_PART}"])
    rules.append(([*homes, "/home/", "/Users/"], rf"{_START}(?:{anyones}){_END}", "~"))
    return [(needles, re.compile(rule), replacement) for needles, rule, replacement in rules]


def _spellings(folder: Path) -> list[str]:
    """Return a folder as it is given and as its links resolve, and both as a URL writes them."""
    plain = [str(folder), os.path.realpath(folder)]
    return list(dict.fromkeys([*plain, *map(quote, plain)]))
