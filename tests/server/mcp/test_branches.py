"""Proposals by the name of a branch: work trees for agents that edit files, and what a branch may not smuggle in."""

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.paths import LabPaths
from tests.server.mcp import rhythm
from tests.server.mcp.calls import answer, refusal
from tests.server.mcp.conftest import TRAIN, FakeRunnerLab, make_runner_lab
from tests.server.mcp.pipe import SERVE

pytestmark = pytest.mark.anyio


@pytest.fixture
def runner_lab(tmp_path: Path) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path / "lab")


@pytest.fixture
async def client(runner_lab: FakeRunnerLab) -> AsyncIterator[Client]:
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        async with Client(build_server(lab)) as connected:
            yield connected


@pytest.fixture
def tree(runner_lab: FakeRunnerLab, tmp_path: Path) -> Path:
    """A work tree of the agent ada's, on the branch agents/ada/1."""
    assert cli.main(["checkout", "champion", str(tmp_path / "ada"), "--author", "ada", "--lab", str(runner_lab.root)]) == 0
    return tmp_path / "ada"


def git(folder: Path, *command: str, stdin: bytes | None = None) -> str:
    who = ["-c", "user.name=somebody", "-c", "user.email=else@example.invalid", "-c", "protocol.file.allow=always"]
    return subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True, input=stdin).stdout.decode().strip()


def commit(tree: Path, text: str, message: str = "A wider model has more room to learn in.") -> str:
    (tree / "train.py").write_text(text)
    git(tree, "commit", "-qam", message)
    return git(tree, "rev-parse", "HEAD")


async def test_an_agent_edits_in_its_own_work_tree_and_proposes_by_name(runner_lab: FakeRunnerLab, client: Client, tree: Path) -> None:
    champion = git(runner_lab.root, "rev-parse", "research")
    commit(tree, TRAIN.replace("64", "96"), "first try")
    own = commit(tree, TRAIN.replace("64", "128"))
    assert (tree / "train.py").read_text() == TRAIN.replace("64", "128")
    made = await answer(client, "propose_patch", ref="agents/ada/1", author="ada")
    assert made["base"] == champion[:12] and not made["duplicate"]
    assert git(runner_lab.root, "log", "-1", "--format=%B", made["commit"]).startswith("A wider model has more room to learn in.")
    assert made["commit"] != own[:12] and git(runner_lab.root, "rev-list", "--count", f"{champion}..{made['commit']}") == "1"
    assert git(runner_lab.root, "show", f"{made['commit']}:train.py") == TRAIN.replace("64", "128").strip()
    assert "somebody" not in git(runner_lab.root, "log", "-1", "--format=%an %cn", made["commit"])
    assert git(runner_lab.root, "status", "--porcelain") == "?? lab.toml"
    assert (await answer(client, "propose_patch", ref="agents/ada/1", hypothesis="The same once more, in other words."))["duplicate"]


async def test_an_agent_over_stdio_goes_through_the_whole_rhythm_in_its_work_tree(runner_lab: FakeRunnerLab, tree: Path) -> None:
    def edit() -> str:
        commit(tree, TRAIN.replace("64", "128"))
        return git(tree, "branch", "--show-current")

    parameters = StdioServerParameters(command=sys.executable, args=["-W", "error", "-c", SERVE, str(runner_lab.root)], cwd=Path.cwd())
    async with Client(parameters) as client:
        proposed = await rhythm.go_through(runner_lab, client, edit, "ada")
    assert git(runner_lab.root, "show", f"{proposed}:train.py") == TRAIN.replace("64", "128").strip()
    git(tree, "reset", "-q", "--hard", "research")  # and on it goes, from the champion
    assert (tree / "train.py").read_text() == TRAIN


async def test_a_branch_of_a_proposal_builds_on_it_and_one_that_took_the_champion_in_on_that(
    runner_lab: FakeRunnerLab, client: Client, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(tree, TRAIN.replace("64", "128"))
    first = await answer(client, "propose_patch", ref="agents/ada/1")
    lab = ["--lab", str(runner_lab.root)]
    assert cli.main(["checkout", first["commit"][:12], str(tmp_path / "deep"), "--author", "Ada L.", "--branch", "deep", *lab]) == 0
    commit(tmp_path / "deep", TRAIN.replace("64", "128").replace("DEPTH = 2", "DEPTH = 3"))
    second = await answer(client, "propose_patch", ref="agents/Ada-L/deep", author="ada")
    assert second["base"] == first["commit"]

    git(runner_lab.root, "update-ref", "refs/heads/research", first["commit"])  # it was promoted
    commit(tree, TRAIN.replace("64", "128").replace("0.04", "0.02"))
    (tree / "train.py").write_text("WIDTH = 0\n")
    assert cli.main(["checkout", "--update", str(tree), *lab]) == 2 and "aren't committed" in capsys.readouterr().err
    git(tree, "checkout", "-q", "train.py")
    assert cli.main(["checkout", "--update", str(tree), *lab]) == 0
    assert (await answer(client, "propose_patch", ref="agents/ada/1"))["base"] == first["commit"]

    git(runner_lab.root, "update-ref", "refs/heads/research", second["commit"])
    commit(tree, TRAIN.replace("64", "128").replace("DEPTH = 2", "DEPTH = 4"))
    assert cli.main(["checkout", "--update", str(tree), *lab]) == 1
    assert "<<<<<<<" in (tree / "train.py").read_text() and "conflict" in capsys.readouterr().out.lower()


async def test_files_of_a_folder_are_deleted_by_a_branch_and_by_null(runner_lab: FakeRunnerLab, client: Client, tree: Path) -> None:
    toml = runner_lab.root / "lab.toml"
    toml.write_text(toml.read_text().replace('editable = ["train.py"]', 'editable = ["train.py", "net/**"]'))
    (tree / "net").mkdir()
    for name in ("a", "b"):
        (tree / "net" / f"{name}.py").write_text(f"{name} = 1\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "Two parts of a net, of which one may be enough")
    both = await answer(client, "propose_patch", ref="agents/ada/1")
    git(tree, "rm", "-q", "net/a.py")
    git(tree, "commit", "-qm", "One part of a net is enough, it seems")
    one = await answer(client, "propose_patch", ref="agents/ada/1", base=both["commit"])
    assert git(runner_lab.root, "ls-tree", "-r", "--name-only", one["commit"], "net") == "net/b.py"
    same = await answer(client, "propose_patch", hypothesis="The same by name", base=both["commit"], files={"net/a.py": None})
    assert same["duplicate"] and same["commit"] == one["commit"]


def _link(tree: Path) -> None:
    (tree / "train.py").unlink()
    (tree / "train.py").symlink_to("/etc/passwd")


def _executable(tree: Path) -> None:
    (tree / "train.py").chmod(0o755)


def _submodule(tree: Path) -> None:
    git(tree, "update-index", "--add", "--cacheinfo", f"160000,{git(tree, 'rev-parse', 'HEAD')},train.py/deep")


def _other_file(name: str) -> Callable[[Path], None]:
    def write(tree: Path) -> None:
        (tree / name).write_text("WIDTH = 1\n")

    return write


def _large(tree: Path) -> None:
    with (tree / "train.py").open("wb") as file:
        file.truncate(64 << 20)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link": (_link, "can't: 'train.py'"),
    "another mode": (_executable, "can't: 'train.py'"),
    "deleted": (lambda tree: (tree / "train.py").unlink(), "can't be deleted"),
    "the settings": (_other_file("lab.toml"), "'lab.toml' (not editable)"),
    "another case": (_other_file("Train.py"), "'Train.py' (not editable)"),
    "a shadow": (_other_file("torch.py"), "'torch.py' (not editable)"),
    "a hook's place": (_other_file(".gitattributes"), "'.gitattributes' (not editable)"),
    "a large file": (_large, "67,108,864 bytes"),
    "no text": (lambda tree: (tree / "train.py").write_bytes(b"\xff\xfe"), "UTF-8"),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_only_editable_files_of_a_branch_count(runner_lab: FakeRunnerLab, client: Client, tree: Path, kind: str) -> None:
    change, why = WRONG[kind]
    change(tree)
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "What an agent should not do with its branch")
    before = git(runner_lab.root, "for-each-ref", "refs/autoresearch")
    assert why in await refusal(client, "propose_patch", ref="agents/ada/1")
    assert git(runner_lab.root, "for-each-ref", "refs/autoresearch") == before


@pytest.mark.parametrize(
    "ref",
    ["agents/ada", "agents/ada/2", "agents/ada/../../research", "research", "refs/heads/agents/ada/1", "agents/ada/1@{0}", "agents/ada/1~0",
     "agents/ada/1.lock", "HEAD", "--help", "agents/ada/1\n", "agents/ada/é", "agents/bob/1"],
)  # fmt: skip
async def test_what_names_no_branch_of_an_agent_is_refused_with_those_that_there_are(client: Client, tree: Path, ref: str) -> None:
    commit(tree, TRAIN.replace("64", "128"))
    assert "It has agents/ada/1." in await refusal(client, "propose_patch", ref=ref)


async def test_a_branch_without_a_change_or_a_past_in_this_lab_is_refused(client: Client, tree: Path) -> None:
    assert "commit your change first" in await refusal(client, "propose_patch", ref="agents/ada/1", hypothesis="Nothing was changed here.")
    git(tree, "checkout", "-q", "--orphan", "agents/ada/alone")
    git(tree, "commit", "-qm", "A history of its own, which is not the lab's")
    assert "nothing to compare it with" in await refusal(client, "propose_patch", ref="agents/ada/alone")
    git(tree, "checkout", "-q", "agents/ada/1")
    commit(tree, TRAIN.replace("64", "128"), "wip")
    assert "says too little" in await refusal(client, "propose_patch", ref="agents/ada/1")
    both = {"ref": "agents/ada/1", "files": {"train.py": TRAIN}, "hypothesis": "Two forms of one change at once."}
    assert "exactly one form" in await refusal(client, "propose_patch", **both)


async def test_a_long_branch_is_one_change(runner_lab: FakeRunnerLab, client: Client, tree: Path) -> None:
    blob = git(tree, "hash-object", "-w", "--stdin", stdin=TRAIN.replace("64", "128").encode())
    git(tree, "update-index", "--cacheinfo", f"100644,{blob},train.py")
    treeish, head = git(tree, "write-tree"), git(tree, "rev-parse", "HEAD")
    lines = [
        f"commit refs/heads/agents/ada/1\nmark :{n + 1}\ncommitter x <y> 0 +0000\ndata 24\nOne of very many commits" for n in range(3000)
    ]
    lines[0] += f"\nfrom {head}"
    fast = "\n".join(f"{line}\nM 040000 {treeish} \n" for line in lines)
    git(tree, "fast-import", "--quiet", "--force", stdin=fast.encode())
    made = await answer(client, "propose_patch", ref="agents/ada/1")
    assert made["base"] == git(runner_lab.root, "rev-parse", "research")[:12]
    assert git(runner_lab.root, "log", "-1", "--format=%B", made["commit"]).startswith("One of very many commits")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["champion", "x"], "--author"),
        (["champion", "{lab}/inside", "--author", "ada"], "in the lab itself"),
        (["champion", "{lab}", "--author", "ada"], "in the lab itself"),
        (["champion", "{ada}", "--author", "ada"], "exists already"),
        (["champion", "{new}", "--author", "ada", "--branch", "1"], "exists already"),
        (["champion", "{new}", "--author", "ada", "--branch", "a b"], "no name for a branch"),
        (["0000000", "{new}", "--author", "ada"], "not a commit"),
        (["--update", "{lab}"], "no work tree"),
        (["--update", "{new}"], "no work tree"),
    ],
)
def test_a_work_tree_that_cannot_be_is_refused(
    runner_lab: FakeRunnerLab, tree: Path, tmp_path: Path, options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"lab": runner_lab.root, "ada": tree, "new": tmp_path / "new"}
    given = [option.format(**places) for option in options]
    assert cli.main(["checkout", *given, "--lab", str(runner_lab.root)]) == 2
    assert why in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_work_tree_that_was_deleted_by_hand_is_in_nobodys_way(runner_lab: FakeRunnerLab, tree: Path) -> None:
    for path in sorted(tree.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    tree.rmdir()
    assert cli.main(["checkout", "champion", str(tree), "--author", "ada", "--lab", str(runner_lab.root)]) == 0
    assert git(tree, "branch", "--show-current") == "agents/ada/2"


async def test_an_experiment_takes_two_calls_and_few_characters(runner_lab: FakeRunnerLab, client: Client, tree: Path) -> None:
    for width in (70, 71, 72):
        commit(tree, TRAIN.replace("64", str(width)), "A wider model has more room to learn in, and more.")
        await answer(client, "propose_patch", ref="agents/ada/1", author="bob", launch=1)
    commit(tree, TRAIN.replace("64", "128"))
    sent = {"ref": "agents/ada/1", "launch": 1, "wait_s": 0, "author": "ada"}
    proposed = await client.call_tool("propose_patch", sent)
    (launched,) = proposed.structured_content["launched"]
    runner_lab.finish(launched["id"], 1.5, "c")
    waited = await client.call_tool("wait_for_experiments", {"ids": [launched["id"]]})
    assert waited.structured_content["experiments"][0]["val_bpb"] == 1.5
    read = "".join(part.text for result in (proposed, waited) for part in result.content)
    assert len(str(sent)) + 80 <= 600 and len(read) <= 900, read


async def test_what_is_launched_without_a_budget_is_proposed_all_the_same(runner_lab: FakeRunnerLab, client: Client, tree: Path) -> None:
    settings = LabPaths(runner_lab.root).settings
    text = settings.read_text("utf-8")
    settings.write_text(text.replace("device_hours = 8.0", "device_hours = 0.001"), "utf-8")
    commit(tree, TRAIN.replace("64", "128"))
    made = await answer(client, "propose_patch", ref="agents/ada/1", launch=1, author="ada")
    assert made["commit"] and not made.get("launched") and "budget" in made["note"]
