"""A lab is made whole or not at all, and a client that opens its directory finds server and worker."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autoresearch_mcp.contracts import TOOLS, contract
from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.trainer import prepare


def git(root: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(root), *args], check=True, capture_output=True, text=True).stdout.strip()


def refused(code: str, directory: Path, from_repo: Path | None = None) -> str:
    before = sorted(directory.parent.rglob("*"))
    with pytest.raises(LabError) as error:
        create_lab(directory, from_repo)
    assert error.value.code == code, error.value
    assert sorted(directory.parent.rglob("*")) == before
    return str(error.value)


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    root = tmp_path / "existing"
    root.mkdir()
    git(root, "init", "-q", "-b", "trunk")
    (root / "train.py").write_text("run.submit(1)\n", encoding="utf-8")
    (root / ".mcp.json").write_text('{"mcpServers": {"other": {"command": "x"}}}', encoding="utf-8")
    (root / "orchestrator.md").write_text("mine\n", encoding="utf-8")
    return root


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "-c", "user.name=ann", "-c", "user.email=ann@example.org", "commit", "-q", "-m", "x")


def test_a_new_lab_has_all_its_parts_on_a_clean_main_with_the_champion_apart(tmp_path: Path) -> None:
    lab = tmp_path / "deep" / "lab"
    lines = create_lab(lab, budget_s=20.0)
    assert git(lab, "status", "--porcelain", "-b") == "## main"
    assert git(lab, "rev-parse", "main") == git(lab, "rev-parse", "research") == Repo(lab).champion()
    loaded = settings.load(lab)
    assert (loaded.lab.name, loaded.training.budget_s, loaded.training.editable) == ("lab", 20.0, ["train.py"])
    package = Path(prepare.__file__).parent
    assert (lab / "train.py").read_bytes() == (package / "train.py").read_bytes()
    copied = {path.relative_to(lab / "trainer").as_posix() for path in (lab / "trainer").rglob("*.py")}
    assert copied == {name for name in prepare.fixed_files() if not name.endswith("__init__.py")} - {"train.py"}
    assert (lab / "trainer" / "score.py").read_bytes() == (package / "score.py").read_bytes()
    assert (lab / "orchestrator.md").read_text("utf-8") == contract("orchestrator")
    assert (lab / ".autoresearch" / ".gitignore").read_text("utf-8") == "*\n"
    assert any(line.startswith("train.py: ") for line in lines)


def test_the_project_file_starts_a_server_from_the_labs_directory(tmp_path: Path) -> None:
    create_lab(tmp_path / "lab")
    server = json.loads((tmp_path / "lab" / ".mcp.json").read_text("utf-8"))["mcpServers"]["autoresearch"]
    assert server["args"][-2:] == ["serve", "."]
    version = [server["command"], *server["args"][:-2], "--version"]
    done = subprocess.run(version, cwd=tmp_path / "lab", env=server.get("env"), check=True, capture_output=True, text=True)
    assert done.stdout.startswith("autoresearch-mcp ")


def test_the_worker_is_a_claude_code_agent_that_may_edit_commit_try_and_use_the_labs_tools(tmp_path: Path) -> None:
    create_lab(tmp_path / "lab")
    text = (tmp_path / "lab" / ".claude" / "agents" / "experiment-worker.md").read_text("utf-8")
    head = re.fullmatch(r"---\nname: experiment-worker\ndescription: [^\n:]+\ntools: (.+?)\n---\n\n(.*)", text, re.DOTALL)
    assert head and head[2] == contract("worker")
    files = {"Read", "Grep", "Edit", "Write", "Bash(git:*)", "Bash(autoresearch-mcp checkout:*)", "Bash(autoresearch-mcp try:*)"}
    assert set(head[1].split(", ")) == files | {f"mcp__autoresearch__{tool}" for tool in TOOLS}


def test_an_existing_empty_directory_is_filled_and_stays_itself(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    inode = lab.stat().st_ino
    create_lab(lab)
    assert lab.stat().st_ino == inode
    assert settings.load(lab).lab.name == "lab"
    assert git(lab, "status", "--porcelain", "-b") == "## main"
    assert not [path for path in lab.iterdir() if path.name.startswith(".autoresearch-new")]


@pytest.mark.parametrize("name", ["lab-\U0001f600", 'q"uo\\te', "$HOME", "-x", "new\nline", "x" * 200, os.fsdecode(b"\xff\xfe")], ids=ascii)
def test_any_name_that_a_directory_can_have_will_do(tmp_path: Path, name: str) -> None:
    create_lab(tmp_path / name)
    assert settings.load(tmp_path / name).lab.name


def test_a_budget_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for budget in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(LabError) as error:
            create_lab(tmp_path / "lab", budget_s=budget)
        assert error.value.code == "bad_settings" and "budget_s" in str(error.value)


def test_a_place_that_is_taken_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    create_lab(tmp_path / "lab")
    assert "already" in refused("already_a_lab", tmp_path / "lab")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("x", encoding="utf-8")
    refused("not_empty", tmp_path / "full")
    refused("not_empty", tmp_path / "full" / "notes.txt")
    refused("not_written", tmp_path / "full" / "notes.txt" / "lab")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused("not_empty", tmp_path / "link")


def test_a_failure_half_way_leaves_nothing_not_even_the_folders_above(tmp_path: Path) -> None:
    with pytest.raises(LabError) as error:
        create_lab(tmp_path / "a" / "b" / "lab", profile="NO SUCH PROFILE")
    assert error.value.code == "bad_settings" and "must be one of cpu" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "lab").mkdir()
    with pytest.raises(LabError):
        create_lab(tmp_path / "lab", profile="NO SUCH PROFILE")
    assert list((tmp_path / "lab").iterdir()) == []


def test_a_lab_from_a_repository_keeps_its_history_and_what_it_has_already(tmp_path: Path, existing: Path) -> None:
    commit(existing)
    (existing / "train.py").write_text("unfinished\n", encoding="utf-8")
    lines = "\n".join(create_lab(tmp_path / "lab", existing))
    lab = tmp_path / "lab"
    assert (lab / "train.py").read_text("utf-8") == "run.submit(1)\n"
    assert (lab / "orchestrator.md").read_text("utf-8") == "mine\n"
    assert set(json.loads((lab / ".mcp.json").read_text("utf-8"))["mcpServers"]) == {"other", "autoresearch"}
    assert git(lab, "rev-parse", "main^") == git(existing, "rev-parse", "HEAD")
    assert git(lab, "status", "--porcelain", "-b") == "## main"
    assert "1 uncommitted" in lines and "orchestrator.md kept" in lines and "warning: train.py" not in lines
    assert git(existing, "status", "--porcelain") == "M train.py"


def test_a_repository_that_cannot_become_a_lab_is_refused_with_the_reason(tmp_path: Path, existing: Path) -> None:
    refused("no_commits", tmp_path / "lab", existing)
    refused("not_a_repository", tmp_path / "lab", tmp_path / "nothing")
    (existing / "train.py").rename(existing / "model.py")
    commit(existing)
    assert "model.py" in refused("no_train_file", tmp_path / "lab", existing)
    (existing / "model.py").rename(existing / "train.py")
    (existing / ".mcp.json").write_text("{ // mine\n}", encoding="utf-8")
    commit(existing)
    refused("bad_config", tmp_path / "lab", existing)


@pytest.mark.parametrize("own", ["trainer/__init__.py", "trainer", "trainer/autoresearch_trainer.py"])
def test_a_repository_with_a_trainer_of_its_own_keeps_that_folder_as_it_was(tmp_path: Path, existing: Path, own: str) -> None:
    (existing / own).parent.mkdir(exist_ok=True)
    (existing / own).write_text("MINE = 1\n", encoding="utf-8")
    commit(existing)
    lab = tmp_path / "lab"
    create_lab(lab, existing)
    assert git(lab, "ls-files", "trainer") == own
    assert (lab / "autoresearch_trainer" / "sandbox" / "jail.py").exists() and not (lab / "autoresearch_trainer" / "train.py").exists()


def test_a_repository_that_has_a_labs_state_in_git_is_refused(tmp_path: Path, existing: Path) -> None:
    (existing / ".autoresearch").mkdir()
    (existing / ".autoresearch" / "notes.txt").write_text("mine\n", encoding="utf-8")
    commit(existing)
    assert "git rm -r --cached .autoresearch" in refused("has_state", tmp_path / "lab", existing)


@pytest.mark.parametrize("place", ["train.py", ".mcp.json", "lab.toml", "orchestrator.md", ".claude"])
def test_what_is_in_the_way_of_a_labs_file_is_named(tmp_path: Path, existing: Path, place: str) -> None:
    (existing / place).unlink(missing_ok=True)
    (existing / place).symlink_to("elsewhere")
    commit(existing)
    text = refused("in_the_way", tmp_path / "lab", existing)
    assert f"a plain file {place}" in text and str(existing) in text and text.count(". ") == 2


def test_a_repositorys_own_lab_toml_holds_or_is_named(tmp_path: Path, existing: Path) -> None:
    (existing / "lab.toml").write_text("[bench]\nrats = 2\n", encoding="utf-8")
    commit(existing)
    text = refused("bad_settings", tmp_path / "lab", existing)
    assert f"{existing} has a lab.toml of its own" in text and "[bench]" in text and "rename it there" in text
    own = '[lab]\nname = "old"\n[training]\nbudget_s = 7\nfiles = ["train.py", "lib", "!lib/x.py"]\n'
    (existing / "lab.toml").write_text(own, encoding="utf-8")
    (existing / "lib").mkdir()
    (existing / "lib" / "part.py").write_text("x = 1\n", encoding="utf-8")
    commit(existing)
    said = create_lab(tmp_path / "lab", existing, budget_s=30.0)
    assert f"lab.toml kept as it is in {existing}" in said and settings.load(tmp_path / "lab").training.budget_s == 7
    names_nothing = "[training] files names nothing at the champion by lib (a folder is written lib/**)"
    assert any(names_nothing in line for line in said)
    (tmp_path / "lab" / "lab.toml").write_text(own.replace('"lib"', '"lib/**"'), encoding="utf-8")
    lab = Lab(tmp_path / "lab")
    assert not any("names nothing" in warning for warning in lab.status().warnings)
    (tmp_path / "lab" / "lab.toml").write_text(own, encoding="utf-8")
    assert any(names_nothing in warning for warning in lab.status().warnings)
    lab.close()


def test_what_else_of_a_repository_its_code_needs_is_in_the_settings(tmp_path: Path, existing: Path) -> None:
    for path in ("src/model.py", "src/deep/part.py", "tests/test_model.py", "data[1].py", "layers.py", ".ci/run.py", "notes/plan.md"):
        (existing / path).parent.mkdir(parents=True, exist_ok=True)
        (existing / path).write_text("x = 1\n", encoding="utf-8")
    commit(existing)
    create_lab(tmp_path / "lab", existing)
    assert settings.load(tmp_path / "lab").training.files == ["layers.py", "src/**", "tests/**"]


def test_a_train_file_that_never_submits_is_pointed_out(tmp_path: Path, existing: Path) -> None:
    (existing / "train.py").write_text("print('val_bpb: 0.1')\n", encoding="utf-8")
    commit(existing)
    assert any(line.startswith("warning: train.py") for line in create_lab(tmp_path / "lab", existing))


def test_a_killed_init_leaves_no_lab(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from autoresearch_mcp.server.commands import init\n"
        "init.settings.load = lambda root: os._exit(9)\ninit.create_lab(Path(sys.argv[1]))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "lab")]).returncode == 9
    assert not (tmp_path / "lab").exists()
    create_lab(tmp_path / "lab")


def test_a_lab_made_where_nothing_can_be_confined_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_mcp.trainer.sandbox.level", lambda: "unsandboxed")
    lines = create_lab(tmp_path / "lab")
    assert settings.load(tmp_path / "lab").promotion.unsandboxed == "allow"
    assert any(line.startswith("warning: this machine can't confine") for line in lines)
    monkeypatch.setattr("autoresearch_mcp.trainer.sandbox.level", lambda: "landlock-7+seccomp")
    assert not any("confine" in line for line in create_lab(tmp_path / "other"))
    assert settings.load(tmp_path / "other").promotion.unsandboxed == "refuse"
