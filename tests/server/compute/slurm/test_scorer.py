"""A scorer of the owner's on a real Slurm: the job's own launcher reads the answers where the nodes see them."""

import sys
from pathlib import Path

import pytest

from autoresearch_mcp.server import settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute import open_compute
from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.harness import LabHarness
from tests.server.lab.test_scorer import LAB, make


def test_what_a_job_predicted_is_measured_by_answers_that_it_could_not_read(slurm_cluster: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    own = tmp_path / "own"
    create_lab(tmp_path / "lab", make(own), "tiny")
    snoop = f"try: print('READ', open('{own}/hidden/test/answers.csv').read())\nexcept OSError: print('DENIED')\n"
    text = LAB.format(folder=own) + f'[compute]\nbackend = "slurm"\n[compute.slurm]\npython = "{sys.executable}"\n'
    (tmp_path / "lab" / "lab.toml").write_text(text, encoding="utf-8")
    harness = LabHarness(tmp_path / "lab")
    edits = [{"path": "train.py", "search": "RIGHT = 0.5", "replace": f"RIGHT = 0.9\n{snoop}"}]
    commit = harness.lab.propose_patch("Look at the inputs, and at the answers.", "ada", edits=edits).commit
    with runner_lock(harness.state):
        (id,) = harness.lab.launch_training(commit, "ada", 1).experiments
    harness.drive(compute=open_compute(settings.load(harness.root), harness.state, harness.state / "runner.log"))
    columns = ["state", "val_bpb", "reported_bpb", "failure"]
    (row,) = harness.lab.query_experiments(ExperimentQuery(commit=commit, columns=columns)).rows
    log = (harness.state / "runs" / id / "1" / "run.log").read_text(encoding="utf-8")
    assert row["state"] == "finished" and row["val_bpb"] > 0.8 and row["reported_bpb"] == 1.0, row
    assert "READ" not in log and ("DENIED" in log), log
    harness.close()
