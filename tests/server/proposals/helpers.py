"""A repository of a lab, and what the tests of proposals do with it."""

import subprocess
from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.repo import Draft, Repo

TRAIN = b"depth = 2\nwidth = 64\n\n\ndef build():\n    return depth * width\n\n\nlr = 0.1\n"


def git(root: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(root), *args], check=True, capture_output=True, text=True).stdout.strip()


def commit_all(root: Path, message: str = "x") -> str:
    git(root, "add", "-A")
    git(root, "-c", "user.name=ann", "-c", "user.email=ann@example.org", "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


def change(repo: Repo, search: str, replace: str, base: str | None = None, message: str = "try it", author: str = "ada") -> Draft:
    return repo.build(base or repo.champion(), message, author, edits=[{"path": "train.py", "search": search, "replace": replace}])


def refused(repo: Repo, code: str, **form: object) -> str:
    with pytest.raises(LabError) as error:
        repo.build(repo.champion(), "try it", "ada", **form)  # type: ignore[arg-type]
    assert error.value.code == code, error.value
    return str(error.value)
