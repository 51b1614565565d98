"""Code, answers and text of the lab's owner on a real Slurm, sent through its login node, which is behind a real sshd."""

import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute import open_compute
from autoresearch_mcp.server.compute.base import ComputeError, Job
from autoresearch_mcp.server.compute.folders import look
from autoresearch_mcp.server.compute.line import sending
from autoresearch_mcp.server.compute.slurm import backend as backend_module
from autoresearch_mcp.server.compute.slurm import there
from autoresearch_mcp.server.compute.slurm.backend import Pace
from autoresearch_mcp.server.compute.spec import spec_of
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.trainer import prepare, protocol
from tests.server.compute.jobs import ENDS, see
from tests.server.compute.ssh.test_folders import SNOOP
from tests.server.harness import LabHarness
from tests.server.lab.test_scorer import LAB, TRAIN, make
from tests.standins.sshd import Hosts

DRAWING = Path(__file__).parents[3] / "bench" / "drawing_launcher.py"
SCORE = """import json, pathlib, sys
left, answers = (pathlib.Path(path).read_text().split()[1:] for path in (sys.argv[1], sys.argv[2] + "/answers.csv"))
first = 0 if sys.argv[2].endswith("validation") else len(left) - len(answers)
right = sum(one == other for one, other in zip(left[first:], answers))
print(json.dumps({"accuracy": right / len(answers)}))
"""


@pytest.fixture
def cluster(ssh_hosts: Hosts, login_node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The part of lab.toml that trains on the cluster; its runs lie in `shared`."""
    monkeypatch.setenv("PATH", f"{Path(ssh_hosts.ssh).parent}:{os.environ['PATH']}")
    monkeypatch.setattr(backend_module, "FAR", Pace(1.0, 0.5))
    return f'[compute]\nbackend = "slurm"\nlogin = "{login_node}"\n[compute.slurm]\nfolder = "{tmp_path}/shared"\n'


def test_a_script_is_verified_on_a_cluster_by_answers_that_it_could_not_read(cluster: str, ssh_hosts: Hosts, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    own, toml = tmp_path / "own", tmp_path / "lab" / "lab.toml"
    repository = make(own)
    (repository / "train.py").write_text(TRAIN + SNOOP, encoding="utf-8")
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qam", "Look"]
    subprocess.run(git, check=True)
    create_lab(tmp_path / "lab", repository, "tiny")
    text = LAB.format(folder=own) + cluster + f'python = "{sys.executable}"\n[promotion]\nunsandboxed = "allow"\n'
    toml.write_text(text, encoding="utf-8")
    harness = LabHarness(tmp_path / "lab")
    edits = [{"path": "train.py", "search": "RIGHT = 0.5", "replace": "RIGHT = 0.9"}]
    better = harness.lab.propose_patch("Look at the inputs.", "ada", edits=edits).commit

    def run() -> tuple[dict[str, Any], list[str]]:
        """How a training of the commit ended, and the paths that it could read."""
        with runner_lock(harness.state):
            (id,) = harness.lab.launch_training(better, "ada", 1).experiments
        harness.drive(compute=open_compute(settings.load(harness.root), harness.state, harness.state / "runner.log"))
        columns = ["id", "state", "val_bpb", "reported_bpb", "conditions", "failure"]
        (row,) = (row for row in harness.lab.query_experiments(ExperimentQuery(columns=columns)).rows if row["id"] == id)
        lines = (harness.state / "runs" / id / "1" / protocol.LOG).read_text(encoding="utf-8").splitlines()
        return row, [line for line in lines if line.startswith("READ")]

    first, read = run()
    assert first["state"] == "finished" and 0.8 < first["val_bpb"] < 1.0 == first["reported_bpb"], first
    assert read and all("/given/data/" in line for line in read), read
    assert "accuracy, verified" in harness.lab.status().metric

    (hidden,) = (tmp_path / "shared").glob("lab-*/given/hidden/*")
    (hidden / "test" / "answers.csv").write_text("label\n" + "1\n" * 97, encoding="utf-8")  # somebody else's hand
    venv = ssh_hosts.home("other") / "own venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    scoring = tmp_path / "scoring"
    scoring.mkdir()
    (scoring / "score.py").write_text(SCORE, encoding="utf-8")
    command = f'kind = "command"\nfile = "{scoring}/score.py"\nsubmission = "predictions.csv"'
    text = text.replace('kind = "predictions"', command).replace("[training]\n", '[training]\npython = "~/own venv"\n')
    toml.write_text(text, encoding="utf-8")
    second, read = run()
    assert second["state"] == "finished" and 0.8 < second["val_bpb"] < 1.0 and second["conditions"] != first["conditions"], second
    assert read and all("/given/data/" in line for line in read), read
    assert (hidden / "test" / "answers.csv").read_bytes() == (own / "hidden" / "test" / "answers.csv").read_bytes()
    harness.close()


def test_a_job_that_waits_keeps_the_folders_that_it_was_handed_in_with(tmp_path: Path) -> None:
    about = {"lab": "l", "folder": str(tmp_path / "there"), "fixed": prepare.fixed_hash()}
    nothing = {"remove": [], "put": {}, "forbid": [], "cancel": [], "command": [], "look": {}, "prepared": "", "read": {}}
    folder, spec = tmp_path / "data", protocol.Spec("e-1", 1, "tiny", 20.0, 1, "", readable=str(tmp_path / "data"))
    folder.mkdir()

    async def ask(request: dict[str, Any], _: float) -> dict[str, Any]:
        return there.answer({**about, **request})

    def send(text: str) -> str:
        (folder / "file").write_text(text, encoding="utf-8")
        found = look("data", folder)
        anyio.run(sending.send, ask, found)
        return found.name

    def put(run: str, name: str) -> Any:
        whole = {"contents": {}, "spec": asdict(spec), "given": {"data": name}}
        return there.answer({**about, "slurm": {**nothing, "put": {run: whole}}})["lacks"]

    root = tmp_path / "there" / "lab-l"
    assert put("e-1/1", "0" * 16) == "data" and not (root / "runs" / "e-1").exists()
    first = send("of the first job")
    assert (
        put("e-1/1", first) == "" and (protocol.read_json(root / "runs/e-1/1/spec.json") or {})["readable"] == f"{root}/given/data/{first}"
    )
    second = send("longer, of another one")
    assert {path.name for path in (root / "given" / "data").iterdir()} == {first, second}
    assert put("e-2/1", second) == "" == put("e-1/1", "0" * 16)  # what was put stays as it is
    for _ in range(2):
        there.answer({**about, "slurm": {**nothing, "remove": ["e-1/1"]}})
        assert put("e-1/1", first) == "" and [path.name for path in (root / "runs" / "e-1" / "1").iterdir()] == [there.CLAIM]  # it is late
    third = send("of a third one, which is longer still")
    assert {path.name for path in (root / "given" / "data").iterdir()} == {second, third}
    os.utime(root / "runs" / "e-1" / "1" / there.CLAIM, (0, 0))
    assert there.answer({**about, "slurm": nothing})["there"] == ["e-2/1"] and not (root / "runs" / "e-1").exists()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_owners_text_is_prepared_by_a_job_as_it_is_here(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    text = tmp_path / "text" / "a.txt"
    text.write_text("\n\n".join(f"Line {n} says {n * n} of {n % 7}." * 20 for n in range(200)), encoding="utf-8")
    python = tmp_path / "python"
    drawn = shlex.join([sys.executable, str(DRAWING), "0", "0.5"])
    keep = f'cp "$3/spec.json" {tmp_path}/spec; exec {drawn} "$3"'
    python.write_text(f'#!/bin/sh\n[ "$2" = autoresearch_mcp.trainer.launch ] || exec {sys.executable} "$@"\n{keep}\n', encoding="utf-8")
    python.chmod(0o755)
    profile = f"[profile.mine]\ntext = '{tmp_path}/text'\nvocab_size = 300\nseq_len = 32\neval_bytes = 10000\n"
    lab = "[lab]\nname = 'x'\n[training]\nprofile = 'mine'\nheldout = 'public'\n" + profile + cluster + f"python = '{python}'\n"
    (tmp_path / "lab.toml").write_text(lab, encoding="utf-8")
    loaded = settings.load(tmp_path)

    def compute() -> Any:
        return open_compute(loaded, tmp_path / "state", tmp_path / "log")

    first = compute()
    job = Job("e-text", 1, tmp_path / "e-text" / "1", spec_of(loaded.launch(), "e-text", await first.prepare()), {"train.py": b""})
    await first.submit(job)
    assert (await see(first, job, *ENDS)).result is not None
    await first.close()
    seen = protocol.read_json(tmp_path / "spec") or {}
    (folder,) = (tmp_path / "shared").glob("lab-*/given/text/*")
    assert seen["own_text"]["text"] == str(folder) and (folder / "a.txt").read_bytes() == text.read_bytes()
    here = prepare.prepare("mine", own=loaded.training.limits.own)
    assert prepare.data_hashes(Path(seen["data"])) == prepare.data_hashes(here)
    (tmp_path / "text" / "out").symlink_to(tmp_path)
    last = compute()
    late = Job("e-late", 1, tmp_path / "e-late" / "1", spec_of(loaded.launch(), "e-late", seen["data"]), {"train.py": b""})
    for call in (last.prepare(), last.submit(late)):
        with pytest.raises(ComputeError, match=r"out in .* is a link that leads out of it"):
            await call
    assert not await last.adopt(late)
    await last.close()
