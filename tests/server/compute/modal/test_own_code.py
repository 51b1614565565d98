"""Code that keeps no contract on Modal's stand-in, whose sandboxes really train and score: what is sent, mounted, refused and measured."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands import modal as commands
from autoresearch_mcp.server.commands.hidden_scores import findings, hidden_scores
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute import open_compute
from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.folders import look
from autoresearch_mcp.server.compute.modal import deployment, own_code
from autoresearch_mcp.server.compute.modal.client import ModalAway, Service
from autoresearch_mcp.server.compute.spec import spec_of
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.models import new_id
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock, stop_runner
from autoresearch_mcp.trainer import protocol
from tests.acceptance.serving import answer, server
from tests.server.compute.jobs import ENDS, see
from tests.server.harness import LabHarness
from tests.server.lab.test_scorer import LAB, make
from tests.standins.modal.standin import Standin

MODAL = '[compute]\nbackend = "modal"\nslots = 4\n[promotion]\nunsandboxed = "allow"\n'
LOOKS = """
for above, folders, names in os.walk(os.environ["AUTORESEARCH_DATA"] + "/../../../../.."):
    for name in names if not os.path.realpath(above).startswith(os.getcwd()) else ():
        try:
            open(os.path.join(above, name), "rb").read()
            print("READ", os.path.realpath(os.path.join(above, name)))
        except OSError:
            pass
"""
LEFT = {  # in place of predictions, and what is said of it
    "os.remove('predictions.csv')\nos.symlink(os.environ['AUTORESEARCH_DATA'] + '/inputs.txt', 'predictions.csv')": "is a link",
    "import pickle\npickle.dump([0] * 297, open('predictions.csv', 'wb'))": "runs code when it is loaded",
    "open('predictions.csv', 'w').truncate(10 << 30)": "[training] max_file_mb",
    "open('predictions.csv', 'w').write('label\\n' + 'nan\\n' * 297)": "row 1: expected finite numbers, got NaN or infinity",
}


def set_up(root: Path) -> list[str]:
    """What the command says."""
    lines: list[str] = []
    commands.set_up(root, None, False, lines.append)
    return lines


def test_what_runs_left_is_measured_by_answers_that_none_could_read_and_nothing_else_gets_a_number(
    modal_standin: Standin, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    own, root = tmp_path / "own", tmp_path / "lab"
    create_lab(root, make(own), "tiny")
    (root / "lab.toml").write_text(LAB.format(folder=own) + MODAL, encoding="utf-8")
    planned: list[str] = []
    commands.set_up(root, None, True, planned.append)
    said = set_up(root)
    assert "scikit-learn>=1.7,<2" in planned[0] and "torch" not in planned[0] and said[: len(planned) - 1] == planned[:-1]
    assert any(line.startswith("[scorer] hidden: sending 2 files") for line in said)
    assert [line for line in set_up(root) if line.endswith("there already")] == [
        "[training] data: there already",
        "[scorer] hidden: there already",
    ]
    (finding,) = commands.inspect(LabPaths(root).state, ["cpu"])[0][:1]
    assert "it has [training] data, [scorer] hidden" in finding

    harness = LabHarness(root)
    candidates = {"RIGHT = 0.9" + LOOKS: "", **{"RIGHT = 0.5\n" + text: words for text, words in LEFT.items()}}
    commits: dict[str, str] = {}
    for text, words in candidates.items():
        right, _, rest = text.partition("\n")
        edits = [
            {"path": "train.py", "search": "RIGHT = 0.5", "replace": right},
            {"path": "train.py", "search": 'print("accuracy: 1.0")', "replace": rest},
        ]
        commits[harness.lab.propose_patch(f"Try {len(commits)}.", "ada", edits=edits).commit] = words
    with runner_lock(harness.state):
        for commit in ("champion", *commits):
            harness.lab.launch_training(commit, "ada", 1)
    harness.drive(compute=open_compute(settings.load(root), harness.state, harness.state / "runner.log"))
    columns = ["id", "commit", "state", "val_bpb", "conditions", "failure"]
    rows = {row["commit"]: row for row in harness.lab.query_experiments(ExperimentQuery(columns=columns)).rows}
    ids = {str(row["id"]) for row in rows.values()}
    for commit, words in commits.items():
        assert words in str(rows[commit]["failure"]), rows[commit]
        assert rows[commit]["state"] == ("crashed" if words else "finished"), rows[commit]
    best = next(commit for commit, words in commits.items() if not words)
    assert rows[best]["val_bpb"] > 0.8, rows[best]
    assert len({row["conditions"] for row in rows.values() if row["state"] == "finished"}) == 1 and len(rows) == len(commits) + 1
    log = (harness.state / "runs" / rows[best]["id"] / "1" / protocol.LOG).read_text(encoding="utf-8")
    (mine,) = modal_standin.containers(experiment=rows[best]["id"])
    read = {
        line for line in log.splitlines() if line.startswith("READ") and "/opt/autoresearch/" not in line
    }  # the fixed files are no secret
    assert {line.rpartition("/containers/")[2] for line in read} == {f"{mine['id']}/fs/run/data/inputs.txt"}, read
    hidden = next(row.test_bpb for row in hidden_scores(root) if row.commit == best)
    assert hidden is not None and 0.7 < hidden <= 1

    for container in modal_standin.containers():
        mounted = " ".join(volume for volume, *_ in container["volumes"].values())
        if container["tags"].get("experiment") in ids:
            assert "hidden" not in mounted and "autoresearch-data-" in mounted and not container["network"], container
        elif container["tags"]["stage"] == "score" and any(id in text for id in ids for text in container["argv"]):
            assert "autoresearch-hidden-" in mounted and "autoresearch-data-" not in mounted and container["gpu"] == ""
            assert str(hidden) not in anyio.run(printed, container["id"]), "the hidden score is in the folder alone"
    harness.close()


async def printed(sandbox: str) -> str:
    return "".join([line async for line in Service("autoresearch", "autoresearch").lines(sandbox)])


SCRIPT = """
import json, os, random, sys
random.seed(int(os.environ["AUTORESEARCH_SEED"]))
inputs = json.load(open(os.environ["INPUTS"]))
RIGHT = 0.6
os.mkdir("out")
json.dump([x % 2 if random.random() < RIGHT else 1 - x % 2 for x in inputs], open("out/labels.json", "w"))
print("ran in", os.path.basename(os.getcwd()), "with", sys.argv[1:], "for", os.environ["SHOWN"])
"""
SCORE = """
import json, sys
labels, answers = json.load(open(sys.argv[1] + "/labels.json")), json.load(open(sys.argv[2] + "/answers.json"))
if labels[0] == 7:
    raise SystemExit(f"for the owner alone: {answers}")
part = labels[:300] if sys.argv[2].endswith("validation") else labels[300:]
print(json.dumps({"error rate": sum(a != b for a, b in zip(part, answers)) / len(answers)}))
"""
COMMAND = """[lab]
name = "own"
[training]
module = "pkg.train --fast"
cwd = "here"
env = {{ INPUTS = "$AUTORESEARCH_DATA/inputs.json", SHOWN = "seed $AUTORESEARCH_SEED" }}
budget_s = 20
data = "{folder}/public"
editable = ["pkg/**"]
files = ["here/**", "requirements.txt"]
[metric]
name = "error rate"
[scorer]
kind = "command"
hidden = "{folder}/hidden"
file = "{folder}/scoring/score.py"
submission = "out"
timeout_s = 10
[compute.modal]
packages = ["-r requirements.txt", "six==1.17.0"]
"""


@pytest.fixture
def scored_by_a_command(tmp_path: Path) -> Path:
    """A lab whose owner's file scores what a module of its repository leaves."""
    own = tmp_path / "own"
    numbers = [17 * n % 101 for n in range(450)]
    texts = {"public/inputs.json": json.dumps(numbers), "scoring/score.py": SCORE}
    for part, of_part in (("validation", numbers[:300]), ("test", numbers[300:])):
        texts[f"hidden/{part}/answers.json"] = json.dumps([x % 2 for x in of_part])
    texts |= {"repository/pkg/__init__.py": "", "repository/pkg/train.py": SCRIPT, "repository/here/.keep": ""}
    texts |= {
        "repository/requirements.txt": "# what it needs\nNumpy>=2  # arrays\n",
        "repository/lab.toml": COMMAND.format(folder=own) + MODAL,
    }
    for name, text in texts.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text, encoding="utf-8")
    git = ["git", "-C", str(own / "repository"), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Mine"]):
        subprocess.run([*git, *command], check=True)
    create_lab(tmp_path / "lab", own / "repository", "tiny")
    return tmp_path / "lab"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_gain_by_the_owners_own_measure_is_promoted_over_mcp(modal_standin: Standin, scored_by_a_command: Path) -> None:
    root = scored_by_a_command
    said = await anyio.to_thread.run_sync(set_up, root)
    assert "with Numpy>=2, six==1.17.0 and" in said[0], said[0]
    with anyio.fail_after(420):
        async with Client(server(root)) as client:
            better = [{"path": "pkg/train.py", "search": "RIGHT = 0.6", "replace": "RIGHT = 0.9"}]
            commit = (await answer(client, "propose_patch", hypothesis="Look closer.", author="ada", edits=better))["commit"]
            wrong = [{"path": "pkg/train.py", "search": "x % 2 if random.random() < RIGHT else 1 - x % 2", "replace": "7"}]
            strange = (await answer(client, "propose_patch", hypothesis="Seven is no parity.", author="ada", edits=wrong))["commit"]
            (failing,) = (await answer(client, "launch_training", commit=strange, author="ada"))["experiments"]
            launched = await answer(client, "launch_training", commit=commit, until="decided", author="ada")
            while not (await answer(client, "wait_for_experiments", ids=[launched["until_decided"]], timeout_s=40))["done"]:
                pass
            promoted = await answer(client, "promote_commit", commit=commit, author="ada")
            status = await answer(client, "get_status")
            failed = await answer(client, "get_experiment", id=failing)
            rows = (await answer(client, "query_experiments", commit=commit, columns=["id", "val_bpb"]))["rows"]
            log = (await answer(client, "get_experiment", id=rows[0]["id"], include=["log"]))["log_tail"]
    assert promoted["promoted"] and status["champion"]["commit"] == commit and "error rate, verified" in status["metric"], promoted
    assert not status.get("warnings"), status["warnings"]
    assert all(row["val_bpb"] < 0.2 for row in rows) and "ran in here with ['--fast'] for seed" in str(log), log
    assert "autoresearch-mcp scores" in failed["failure"]["message"] and "owner alone" not in json.dumps(failed)
    ((experiment, _, finding),) = findings(root)
    assert experiment == failing and "for the owner alone: [0, 1" in finding
    stop_runner(LabPaths(root).state)


def test_what_is_not_on_modal_as_it_is_here_is_named_and_nothing_is_queued(
    modal_standin: Standin, scored_by_a_command: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, own = scored_by_a_command, scored_by_a_command.parent / "own"
    link, upload = own / "public" / "link", Service.upload

    async def breaks(self: Service, volume: str, files: Any) -> None:
        await upload(self, volume, files[:1])
        raise ModalAway("the line broke")

    with monkeypatch.context() as broken, pytest.raises(LabError, match="What was done so far is kept"):
        broken.setattr(Service, "upload", breaks)
        set_up(root)
    link.symlink_to("..")
    with pytest.raises(LabError, match=r"link in .* is a link that leads out of it"):
        set_up(root)
    link.unlink()
    link.symlink_to(own / "public")
    with pytest.raises(LabError, match=r"link in .* is a link to a folder or to nothing"):
        set_up(root)
    link.unlink()
    set_up(root)

    harness = LabHarness(root)

    def refuses(why: str) -> None:
        with pytest.raises(LabError, match=rf"{why}.*Nothing was queued\."):
            harness.lab.launch_training("champion", "ada")

    file = own / "scoring" / "score.py"
    file.write_text(SCORE + "# another\n", encoding="utf-8")
    refuses(r"\[scorer\] file in lab.toml names a folder that is not on Modal as it is here now\. Run .autoresearch-mcp setup modal")
    file.write_text(SCORE, encoding="utf-8")
    (root / "requirements.txt").write_text("numpy>=2\nscipy\n", encoding="utf-8")
    refuses("the image on Modal holds other packages than .compute.modal. packages asks for")
    (root / "requirements.txt").write_text("--index-url https://x.example\n", encoding="utf-8")
    refuses("requirements.txt, line 1: only packages with versions go to Modal")
    (root / "requirements.txt").unlink()
    refuses("requirements.txt, which .compute.modal. packages names, can't be read")
    shutil.rmtree(own / "hidden")
    refuses("there is no folder")
    harness.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_a_scorer_the_trainings_end_is_the_end_and_a_new_setup_serves_who_trains_already(
    modal_standin: Standin, tmp_path: Path
) -> None:
    lab = "[lab]\nname = 'x'\n[training]\nbudget_s = 20\nmemory_mb = 70000\n[metric]\nname = 'loss'\n[compute.modal]\npackages = ['-r needs.txt']\n"
    (tmp_path / "lab.toml").write_text(lab + MODAL, encoding="utf-8")
    (tmp_path / "needs.txt").write_text("numpy\n", encoding="utf-8")
    await anyio.to_thread.run_sync(set_up, tmp_path)
    state, loaded = LabPaths(tmp_path).state, settings.load(tmp_path)
    compute = open_compute(loaded, state, state / "runner.log")
    assert await compute.prepare() == ""
    (tmp_path / "needs.txt").write_text("numpy\nsix\n", encoding="utf-8")
    with pytest.raises(ComputeError, match="holds other packages"):
        await compute.prepare()
    await anyio.to_thread.run_sync(set_up, tmp_path)
    assert await compute.prepare() == ""

    id = new_id("e")
    spec = spec_of(loaded.launch(), id, device="cpu")
    job = Job(id, 1, state / "runs" / id / "1", spec, {"train.py": b"print('loss: 0.25')\n"})
    await compute.submit(job)
    end = await see(compute, job, *ENDS)
    assert end.result is not None and (end.result.state, end.result.reported_bpb, end.result.val_bpb) == ("finished", 0.25, None), end
    assert end.result.hashes.keys() == {"fixed", "code", "packages"}
    (trainer,) = modal_standin.containers(experiment=id)
    assert [volume for volume, *_ in trainer["volumes"].values()] == [deployment.load(state).runs]
    assert not any(id in text for container in modal_standin.containers(stage="score") for text in container["argv"])
    assert loaded.longest_s() > trainer["timeout_s"] > 20
    await compute.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_folder_is_sent_once_and_one_that_changes_meanwhile_never_counts_as_whole(
    modal_standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/run.sh", "b ü.txt", "empty"):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(name.encode() if name != "empty" else b"")
    (tmp_path / "folder" / "a" / "run.sh").chmod(0o700)
    (tmp_path / "folder" / "b ü.txt").chmod(0o600)
    (tmp_path / "folder" / "link").symlink_to("b ü.txt")
    service = Service("autoresearch", "autoresearch")
    await service.create_environment()
    monkeypatch.setattr(own_code, "BATCH_FILES", 2)
    folder = look("hidden", tmp_path / "folder")
    volume = own_code.volume("hidden", folder.name)
    (tmp_path / "folder" / "empty").write_bytes(b"no more")
    with pytest.raises(ComputeError, match=r"changed while it was sent. Run `autoresearch-mcp setup modal` again"):
        await own_code.send(service, folder, print)
    assert await service.read(volume, own_code.WHOLE) is None
    (tmp_path / "folder" / "empty").write_bytes(b"")
    said: list[str] = []
    await own_code.send(service, folder, said.append)
    assert "4 files" in said[-1] and await service.read(volume, "files/link") == "b ü.txt".encode()
    assert await service.read(volume, own_code.WHOLE) is not None and await service.read(volume, "files/empty") == b""
    await own_code.send(service, folder, said.append)
    assert said[-1] == "[scorer] hidden: there already"
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ComputeError, match="holds no file"):
        await own_code.send(service, look("data", tmp_path / "nothing"), print)
