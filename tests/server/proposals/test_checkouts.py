"""A work tree that has the champion's branch checked out follows a promotion, or its owner is told why it doesn't."""

import subprocess
from pathlib import Path

import pytest

from autoresearch_mcp.server.proposals.repo import Repo
from tests.server.proposals.helpers import TRAIN, git


@pytest.fixture(params=["the lab itself", "a linked work tree"])
def checkout(request: pytest.FixtureRequest, repo: Repo, tmp_path: Path) -> Path:
    """A work tree that is on the champion's branch."""
    if request.param == "the lab itself":
        git(repo.root, "switch", "-q", "research")
        return repo.root
    git(repo.root, "worktree", "add", "-q", str(tmp_path / "look"), "research")
    return tmp_path / "look"


def promote(repo: Repo) -> list[str]:
    champion = repo.champion()
    return repo.advance(champion, repo.build(champion, "faster", "ada", files={"train.py": TRAIN.decode().replace("0.1", "0.2")}).commit)


def test_a_clean_work_tree_advances(repo: Repo, checkout: Path) -> None:
    (checkout / "model/net.py").touch()  # only its time is new
    assert promote(repo) == [] and repo.behind() == []
    assert git(checkout, "status", "--porcelain", "-b") == "## research"
    assert "lr = 0.2" in (checkout / "train.py").read_text("utf-8")
    assert git(checkout, "rev-parse", "HEAD") == repo.champion()


def test_changes_to_other_files_are_carried_along(repo: Repo, checkout: Path) -> None:
    (checkout / "model/net.py").write_text("# My notes\n", encoding="utf-8")
    (checkout / "mine.txt").write_text("x\n", encoding="utf-8")
    assert promote(repo) == []
    assert git(checkout, "status", "--porcelain").split() == ["M", "model/net.py", "??", "mine.txt"]
    assert (checkout / "model/net.py").read_text("utf-8") == "# My notes\n"


def test_changes_in_the_way_stay_and_the_owner_is_told(repo: Repo, checkout: Path) -> None:
    (checkout / "train.py").write_text("mine\n", encoding="utf-8")
    previous = repo.champion()
    (warning,) = promote(repo)
    name = "the lab's own work tree" if checkout == repo.root else "the work tree look"
    assert name in warning and f"git diff {previous[:12]}" in warning and "git reset --hard" in warning
    assert (checkout / "train.py").read_text("utf-8") == "mine\n"
    assert repo.champion() != previous
    (later,) = repo.behind()
    assert name in later and "undo a promotion" in later
    git(checkout, "reset", "-q", "--hard")
    assert repo.behind() == [] and "lr = 0.2" in (checkout / "train.py").read_text("utf-8")


def test_a_promotion_while_the_owners_git_holds_the_index_is_done_and_told(repo: Repo, checkout: Path) -> None:
    lock = Path(git(checkout, "rev-parse", "--absolute-git-dir"), "index.lock")
    lock.touch()
    (warning,) = promote(repo)
    assert str(lock) in warning and git(checkout, "rev-parse", "HEAD") == repo.champion()
    lock.unlink()
    assert repo.follow(git(repo.root, "rev-parse", "research^"), repo.champion()) == [] == repo.behind()


def test_the_owners_line_endings_are_no_change(repo: Repo, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "gitconfig"
    settings.write_text("[core]\n\tautocrlf = true\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    (checkout / "train.py").unlink()
    git(checkout, "checkout", "-q", "--", "train.py")
    assert b"\r\n" in (checkout / "train.py").read_bytes()
    assert promote(repo) == []
    assert b"lr = 0.2\r\n" in (checkout / "train.py").read_bytes() and git(checkout, "status", "--porcelain") == ""


def test_work_trees_on_other_branches_are_left_alone(repo: Repo, tmp_path: Path) -> None:
    git(repo.root, "worktree", "add", "-q", "-b", "mine", str(tmp_path / "look"))
    git(repo.root, "worktree", "add", "-q", str(tmp_path / "gone"), "research")
    (tmp_path / "gone" / "train.py").unlink()
    subprocess.run(["rm", "-r", str(tmp_path / "gone")], check=True)  # without `git worktree remove`
    before = git(repo.root, "rev-parse", "HEAD")
    assert promote(repo) == [] and repo.behind() == []
    for root in (repo.root, tmp_path / "look"):
        assert git(root, "rev-parse", "HEAD") == before and git(root, "status", "--porcelain") == ""


def test_a_work_tree_that_cannot_be_looked_at_hinders_no_promotion(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(repo.root, "worktree", "add", "-q", str(tmp_path / "look"), "research")
    (entry,) = (repo.root / ".git" / "worktrees").iterdir()
    (entry / "gitdir").write_bytes(b"\xff\xfe")
    (entry.parent / "stray").write_text("not a folder", encoding="utf-8")
    assert promote(repo) == [] == repo.behind()
    git(repo.root, "switch", "-q", "--ignore-other-worktrees", "research")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert repo.behind() == []  # without git, get_status still answers
