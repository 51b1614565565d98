"""Proposals are built beside the user's work tree, whatever the caller's environment, and the champion moves by compare-and-swap."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.proposals.git import _CONFIG, Git
from autoresearch_mcp.server.proposals.repo import Repo
from tests.server.proposals.helpers import TRAIN, change, commit_all, git, refused


def test_a_proposal_is_a_commit_on_its_base_that_leaves_work_tree_index_and_branches_alone(repo: Repo) -> None:
    (repo.root / "train.py").write_text("my own unfinished work\n", encoding="utf-8")
    before = (git(repo.root, "status", "--porcelain"), git(repo.root, "branch", "-v"), (repo.root / ".git/index").read_bytes())
    draft = change(repo, "depth = 2", "depth = 3")
    repo.keep(draft.commit)
    assert (git(repo.root, "status", "--porcelain"), git(repo.root, "branch", "-v"), (repo.root / ".git/index").read_bytes()) == before
    assert repo.read(draft.commit, "train.py") == TRAIN.replace(b"depth = 2", b"depth = 3")
    assert repo.read(draft.commit, "trainer/score.py") == b"fixed = 1\n"
    assert git(repo.root, "rev-parse", f"{draft.commit}^") == draft.base == repo.champion()
    assert (draft.files_changed, draft.insertions, draft.deletions, draft.stat) == (1, 1, 1, "train.py | +1 -1")
    assert "-depth = 2\n+depth = 3\n" in repo.diff(draft.base, draft.commit)


def test_files_may_be_made_and_changed_below_an_editable_folder(repo: Repo) -> None:
    draft = repo.build(repo.champion(), "m", "a", files={"model/deep/new.py": "a = 1\n", "model/net.py": "layers = 4\n"})
    assert draft.files_changed == 2
    assert repo.read(draft.commit, "model/deep/new.py") == b"a = 1\n"
    assert set(repo.paths(draft.commit)) == {"train.py", "trainer/score.py", "model/net.py", "model/deep/new.py"}
    git(repo.root, "fsck", "--strict")


def test_files_below_an_editable_folder_may_be_deleted_and_renamed(repo: Repo) -> None:
    draft = repo.build(repo.champion(), "m", "a", files={"model/net.py": None, "train.py": "lr = 1\n"})
    assert set(repo.paths(draft.commit)) == {"train.py", "trainer/score.py"}
    assert "model/net.py | +0 -1" in draft.stat and draft.fingerprint == repo.fingerprint(draft.commit)
    renamed = repo.build(repo.champion(), "m", "a", files={"model/net.py": None, "model/deep/net.py": "layers = 3\n"})
    assert repo.read(renamed.commit, "model/deep/net.py") == b"layers = 3\n" and "model/net.py" not in repo.paths(renamed.commit)
    assert renamed.fingerprint != repo.fingerprint(renamed.base)
    git(repo.root, "fsck", "--strict")
    assert "names it by itself" in refused(repo, "not_editable", files={"train.py": None, "model/train.py": "lr = 1\n"})
    assert "deletes model/none.py" in refused(repo, "does_not_apply", files={"model/none.py": None})


def test_one_champion_is_seen_while_an_answer_is_read_by_the_thread_that_reads_it(repo: Repo) -> None:
    before, after = repo.champion(), change(repo, "depth = 2", "depth = 3").commit

    def in_another_thread() -> str:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(repo.champion).result()

    with repo.steady():
        assert repo.champion() == before
        git(repo.root, "update-ref", repo.branch, after)
        with repo.steady():
            assert (repo.champion(), repo.resolve("champion"), in_another_thread()) == (before, before, after)
        assert repo.champion() == before
    assert repo.champion() == after
    with repo.steady():
        assert repo.champion() == after


def test_git_is_asked_once_what_an_id_of_an_answer_names_and_each_time_what_a_shorter_one_does(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, asked, output = change(repo, "0.1", "0.2").commit, list[str](), Git.output

    def counted(self: Git, *args: str, **more: Any) -> bytes:
        asked.append(args[0])
        return output(self, *args, **more)

    monkeypatch.setattr(Git, "output", counted)
    for text, more in ((commit[:12], 2), (commit[:12], 0), (commit, 1), (commit, 0), (commit[:11], 2), (commit[:11], 2)):
        before = len(asked)
        assert repo.resolve(text) == commit and len(asked) - before == more, text
    for _ in range(2):
        with pytest.raises(LabError):
            repo.resolve("0" * 12)  # it may come to be


def test_a_kept_proposal_survives_garbage_collection(repo: Repo) -> None:
    kept, lost = change(repo, "0.1", "0.2"), change(repo, "0.1", "0.3")
    repo.keep(kept.commit)
    git(repo.root, "gc", "--quiet", "--prune=now")
    assert repo.resolve(kept.commit) == kept.commit
    with pytest.raises(LabError):
        repo.resolve(lost.commit)
    assert repo.champion() == kept.base  # now a packed ref
    assert repo.resolve(change(repo, "0.1", "0.4").commit)


def test_nothing_in_the_callers_environment_or_the_users_settings_changes_what_is_stored(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = repo.root / ".git/hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(
        "[commit]\n\tgpgSign = true\n[diff]\n\tnoprefix = true\n[core]\n\tautocrlf = true\n[user]\n\tuseConfigOnly = true\n", "utf-8"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    for name in (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_COMMON_DIR",
        "GIT_SHALLOW_FILE",
        "GIT_NAMESPACE",
    ):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody else")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.bare")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "nonsense")
    draft = change(repo, "depth = 2", "depth = 3")
    repo.keep(draft.commit)
    repo.advance(draft.base, draft.commit)
    assert repo.log(1)[0].author == "ada"
    assert "--- a/train.py" in repo.diff(draft.base, draft.commit)
    assert repo.read(repo.champion(), "train.py").endswith(b"lr = 0.1\n")


def test_no_git_identity_is_needed(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    commit = change(repo, "0.1", "0.2", author="  Ann <ann@evil.example>\n\x1b[31m ").commit
    assert (
        git(repo.root, "log", "-1", "--format=%an|%ae|%cn", commit)
        == "Ann ann@evil.example|agent@autoresearch.invalid|Ann ann@evil.example"
    )
    assert git(repo.root, "log", "-1", "--format=%an", change(repo, "0.1", "0.3", author="\n<>").commit) == "agent"


@pytest.mark.parametrize(
    "text",
    [
        "Better lr\n\nAutoresearch-Author: victim",
        "Better lr\n\nAutoresearch-Author: victim\n---\ndiff",
        "Autoresearch-Author: victim",
        "Better lr\r\n\r\nAutoresearch-Author: victim\r\n\0\n\n",
        "x" * 5_000 + "\n\nSigned-off-by: victim",
    ],
)
def test_a_hypothesis_cannot_forge_trailers(repo: Repo, text: str) -> None:
    commit = change(repo, "0.1", "0.2", message=text).commit
    message = git(repo.root, "log", "-1", "--format=%B", commit)
    for form in ([], ["--no-divider"]):
        trailers = subprocess.run(
            ["git", "interpret-trailers", "--parse", *form], input=message, capture_output=True, text=True, check=True
        )
        assert trailers.stdout == "Autoresearch-Author: ada\n"
    assert len(repo.log(1)[0].subject) <= 103


def test_comments_and_layout_do_not_change_the_fingerprint_but_code_does(repo: Repo) -> None:
    draft = change(repo, "lr = 0.1", "lr = 0.2")
    same = change(repo, "lr = 0.1", "lr   =  0.2  # a thought\n")
    other = change(repo, "lr = 0.1", "lr = 0.3")
    assert draft.commit != same.commit
    assert draft.fingerprint == same.fingerprint == repo.fingerprint(draft.commit)
    assert other.fingerprint != draft.fingerprint != repo.fingerprint(repo.champion())


def test_commits_are_found_by_full_id_prefix_or_as_the_champion(repo: Repo) -> None:
    commit = change(repo, "0.1", "0.2").commit
    assert repo.resolve(commit) == repo.resolve(f" {commit[:7].upper()}\n") == commit
    assert repo.resolve("champion") == repo.champion()


@pytest.mark.parametrize(
    "text",
    ["", "HEAD", "research", "--all", "-x", "abc", "0" * 40, "1234567", "a" * 41, "champion^", "@{1}", "main:train.py", "\0" * 9, "é" * 8],
)
def test_other_names_of_commits_are_refused(repo: Repo, text: str) -> None:
    with pytest.raises(LabError) as error:
        repo.resolve(text)
    assert error.value.code == "unknown_commit"


def test_a_branch_or_tree_whose_name_looks_like_a_commit_is_not_one(repo: Repo) -> None:
    draft = change(repo, "0.1", "0.2")
    git(repo.root, "branch", "abcdef0", draft.commit)
    tree = git(repo.root, "rev-parse", f"{draft.commit}^{{tree}}")
    for text in ("abcdef0", tree, tree[:10]):
        with pytest.raises(LabError):
            repo.resolve(text)


@pytest.mark.parametrize("path", ["nothing.py", "trainer", "../lab/train.py", "/etc/passwd", "", ".git/config", "trian.py"])
def test_reading_what_is_no_file_is_refused(repo: Repo, path: str) -> None:
    with pytest.raises(LabError) as error:
        repo.read(repo.champion(), path)
    assert error.value.code == "no_such_file"
    assert path != "trian.py" or "train.py" in str(error.value)


def test_changes_that_change_nothing_or_leave_the_editable_paths_are_refused(repo: Repo) -> None:
    refused(repo, "no_change", files={"train.py": TRAIN.decode()})
    refused(repo, "no_change", edits=[{"path": "train.py", "search": "0.1", "replace": "0.1"}])
    assert "train.py, model/**" in refused(repo, "not_editable", files={"trainer/score.py": "x = 1\n"})
    for path in (
        "../x.py",
        "/etc/x.py",
        "model/../trainer/score.py",
        "model/.git/hooks/x",
        "model/./x.py",
        "model//x.py",
        "model/a\nb.py",
        "model/",
        "",
    ):
        refused(repo, "not_editable", files={path: "x = 1\n"})


def test_a_link_cannot_be_edited_or_read_through(repo: Repo) -> None:
    (repo.root / "train.py").unlink()
    (repo.root / "train.py").symlink_to("/etc/passwd")
    (repo.root / "model" / "link").symlink_to("/etc")
    base = commit_all(repo.root)
    for path in ("train.py", "model/link", "model/link/passwd", "model/net.py/x.py"):
        with pytest.raises(LabError) as error:
            repo.build(base, "m", "a", files={path: "x = 1\n"})
        assert error.value.code == "not_editable"
    with pytest.raises(LabError):
        repo.read(base, "train.py")


def test_the_champion_moves_only_from_where_the_caller_saw_it(repo: Repo) -> None:
    start, one, two = repo.champion(), change(repo, "0.1", "0.2").commit, change(repo, "0.1", "0.3").commit
    repo.advance(start, one)
    with pytest.raises(LabError) as error:
        repo.advance(start, two)
    assert error.value.code == "champion_moved"
    assert repo.champion() == one
    assert git(repo.root, "status", "--porcelain") == ""
    assert [entry.subject for entry in repo.log()] == ["try it", "Set up"]
    assert repo.is_ancestor(start, one) and not repo.is_ancestor(one, two)


def test_of_many_who_move_the_champion_at_once_one_wins(repo: Repo) -> None:
    start = repo.champion()
    commits = [change(repo, "0.1", f"0.{n + 2}").commit for n in range(8)]

    def move(commit: str) -> str | None:
        try:
            Repo(repo.root).advance(start, commit)
        except LabError as error:
            assert error.code == "champion_moved"
            return None
        return commit

    with ThreadPoolExecutor(8) as pool:
        winners = [commit for commit in pool.map(move, commits) if commit]
    assert winners == [repo.champion()]


def test_two_hundred_proposals_at_once_from_eight_processes_are_two_hundred_commits(repo: Repo) -> None:
    script = (
        "import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path; from autoresearch_mcp.server.proposals.repo import Repo\n"
        "repo, k = Repo(Path(sys.argv[1])), int(sys.argv[2]); base = repo.champion()\n"
        "def go(n):\n"
        "    edit = {'path': 'train.py', 'search': 'lr = 0.1', 'replace': f'lr = {k + 1}.{n}'}\n"
        "    draft = repo.build(base, 'm', 'a', edits=[edit]); repo.keep(draft.commit); return draft.commit\n"
        "print('\\n'.join(ThreadPoolExecutor(5).map(go, range(1, 26))))"
    )
    clients = [
        subprocess.Popen([sys.executable, "-c", script, str(repo.root), str(k)], stdout=subprocess.PIPE, text=True) for k in range(8)
    ]
    commits = {line for client in clients for line in client.communicate()[0].split()}
    assert [client.returncode for client in clients] == [0] * 8
    assert len(commits) == 200
    kept = set(git(repo.root, "for-each-ref", "--format=%(objectname)", "refs/autoresearch/proposals").split())
    assert kept == commits
    git(repo.root, "fsck", "--strict")


def test_a_missing_git_or_repository_is_a_sentence(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError) as error:
        Repo(tmp_path).champion()
    assert error.value.code == "not_a_lab"
    code = (
        "import sys; from pathlib import Path; from autoresearch_mcp.server.proposals.repo import Repo\n"
        "try: Repo(Path(sys.argv[1])).paths('0' * 40)\nexcept Exception as e: print(e.code)"
    )
    environment = {"PATH": str(tmp_path)}
    for prelude in ("", "import git; "):  # missing from the start, or gone since
        path = os.environ["PATH"] if prelude else str(tmp_path)
        gone = f"import os; {prelude}os.environ['PATH'] = {str(tmp_path)!r}; " + code
        done = subprocess.run(
            [sys.executable, "-c", gone, str(repo.root)], env={**environment, "PATH": path}, capture_output=True, text=True
        )
        assert done.stdout.strip() == "git_missing", done.stderr


def test_a_lock_that_a_dead_git_left_behind_is_named(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_CONFIG, "core.filesRefLockTimeout", "0")
    draft = change(repo, "0.1", "0.2")
    lock = repo.root / ".git/refs/heads/research.lock"
    lock.touch()
    with pytest.raises(LabError) as error:
        repo.advance(draft.base, draft.commit)
    assert error.value.code == "locked" and f"delete {lock} and try again" in str(error.value)
    lock.unlink()
    repo.advance(draft.base, draft.commit)


def test_a_missing_champion_is_a_sentence(repo: Repo) -> None:
    git(repo.root, "branch", "-D", "research")
    with pytest.raises(LabError) as error:
        repo.champion()
    assert error.value.code == "no_champion"


@pytest.fixture
def unwritable(repo: Repo) -> Iterator[Repo]:
    folders = [path for path in (repo.root / ".git").rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    yield repo
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_lab_that_cannot_be_written_says_so(unwritable: Repo) -> None:
    with pytest.raises(LabError) as error:
        change(unwritable, "0.1", "0.2")
    assert error.value.code == "read_only"


def test_importing_the_module_does_not_import_git() -> None:
    subprocess.run(
        [sys.executable, "-c", "from autoresearch_mcp.server.proposals import repo; import sys; assert 'git' not in sys.modules"],
        check=True,
    )
