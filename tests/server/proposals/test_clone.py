"""A lab starts from a user's repository, which is only read."""

from pathlib import Path

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.making import NewRepo
from autoresearch_mcp.server.proposals.repo import Repo
from tests.server.proposals.helpers import TRAIN, change, commit_all, git


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    git(root, "init", "-q", "-b", "trunk")
    (root / "train.py").write_bytes(TRAIN)
    commit_all(root, "one")
    return root


def clone(existing: Path, tmp_path: Path) -> tuple[Repo, list[str]]:
    root = tmp_path / "clone"
    root.mkdir()
    return NewRepo.clone(existing, root)


def test_a_clone_of_a_dirty_repository_has_its_last_commit_and_leaves_it_as_it_was(source: Path, tmp_path: Path) -> None:
    (source / "train.py").write_text("unfinished\n", encoding="utf-8")
    (source / "other.py").write_text("new\n", encoding="utf-8")
    index = (source / ".git/index").read_bytes()
    repo, warnings = clone(source, tmp_path)
    assert "2 uncommitted" in warnings[0]
    assert (source / ".git/index").read_bytes() == index and (source / "train.py").read_text("utf-8") == "unfinished\n"
    assert (repo.root / "train.py").read_bytes() == TRAIN
    assert repo.champion() == git(source, "rev-parse", "HEAD") == git(repo.root, "rev-parse", "main")
    assert git(repo.root, "status", "--porcelain", "-b") == "## main"


@pytest.mark.parametrize("kind", ["bare", "shallow", "worktree"])
def test_bare_shallow_and_linked_repositories_can_be_cloned(source: Path, tmp_path: Path, kind: str) -> None:
    commit_all(source, "two")
    other = tmp_path / "other"
    options = {
        "bare": ("clone", "-q", "--bare"),
        "shallow": ("clone", "-q", "--depth=1"),
        "worktree": ("worktree", "add", "-q", "--detach", str(other)),
    }
    git(source, *options[kind], *([] if kind == "worktree" else [f"file://{source}", str(other)]))
    repo, warnings = clone(other, tmp_path)
    assert (repo.champion(), warnings) == (git(source, "rev-parse", "HEAD"), [])
    assert change(repo, "0.1", "0.2").base == repo.champion()


def test_what_is_no_repository_or_has_no_commit_is_named(source: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(LabError) as error:
        clone(empty, tmp_path)
    assert error.value.code == "not_a_repository"
    git(empty, "init", "-q")
    (tmp_path / "clone" / ".git").rename(tmp_path / "first")
    with pytest.raises(LabError) as error:
        NewRepo.clone(empty, tmp_path / "clone")
    assert error.value.code == "no_commits" and "has no commit yet" in str(error.value)
    git(source, "symbolic-ref", "HEAD", "refs/heads/gone")
    (tmp_path / "clone" / ".git").rename(tmp_path / "second")
    with pytest.raises(LabError, match=rf"HEAD names, but on trunk\. Run `git -C {source} symbolic-ref HEAD refs/heads/trunk`"):
        NewRepo.clone(source, tmp_path / "clone")


def test_another_users_repository_must_be_trusted_before_it_is_cloned(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(LabError) as error:
        clone(source, tmp_path)
    assert error.value.code == "not_trusted" and "safe.directory" in str(error.value)
