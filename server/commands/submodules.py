"""Copies the files of a repository's submodules into a new lab, or says that they are not there."""

from collections.abc import Callable, Sequence
from pathlib import Path

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.making import NewRepo


def include(repo: NewRepo, source: Path | str, wanted: Callable[[Sequence[str]], bool] | None) -> list[str]:
    """Put the files of submodules in their place, where the owner wants that.

    Args:
        repo: the new lab's.
        source: the user's repository; a URL has no checked-out submodules.
        wanted: tells whether to; None where nobody can be asked.

    Returns:
        What was done, or what will be missing, in sentences.
    """
    paths = repo.submodules("HEAD")
    if not paths:
        return []
    here = [path for path in paths if not isinstance(source, str) and (source / path / ".git").exists()]
    lines = []
    if here and wanted is not None and wanted(here):
        for path in here:
            try:
                repo.include_submodule(path, Path(source, path))
                lines.append(f"{path} was a submodule: its files are in the lab now")
            except LabError:
                lines.append(f"warning: {path} is a submodule whose commit is not in {Path(source, path)}, so its files are not in the lab")
        paths = [path for path in paths if path not in here]
        here = []
    if here:
        lines.append(f"warning: {', '.join(here[:5])} is a submodule, so it is not in the lab. --submodules copies its files")
    if absent := [path for path in paths if path not in here]:
        where = "give a clone that has it" if isinstance(source, str) else f"run `git -C {source} submodule update --init`"
        lines.append(
            f"warning: {', '.join(absent[:5])} is a submodule that isn't checked out. {where[0].upper()}{where[1:]}, then --submodules"
        )
    return lines
