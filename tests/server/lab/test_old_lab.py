"""A lab that version 0.1 made, before the rooms, opens and goes on: its train.py imports the contract as `trainer`.

`tests/data/lab-0.1.tar.xz` was made by the code of commit d91fbd1: on the profile `tiny`, three replicates of the first train.py and of one
with a single layer, a crash, a note, a promotion. Its own copy of `trainer/` shows agents the fixed code, and nothing runs it.
"""

import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab.query import ExperimentQuery
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.harness import LabHarness

ARCHIVE = Path(__file__).parents[2] / "data" / "lab-0.1.tar.xz"
CHAMPION = "72893225395c8c2b1e2431772cbdf3c90e16450b"


@pytest.fixture
def old(tmp_path: Path) -> Iterator[LabHarness]:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    harness = LabHarness(tmp_path / "lab")
    yield harness
    harness.close()


def test_its_past_is_there(old: LabHarness) -> None:
    with runner_lock(old.state):
        status = old.lab.status()
    assert (status.champion.commit, status.counts, status.promotions) == (CHAMPION, {"finished": 6, "crashed": 1}, 1)
    assert status.budget.spent_s > 10
    (notice,) = status.warnings
    assert "min_replicates counts for nothing now, and level = 0.05 is read as 0.005" in notice
    finished = old.lab.query_experiments(ExperimentQuery(commit=CHAMPION, columns=["val_bpb", "author", "details"]))
    assert [row["author"] for row in finished.rows] == ["ada"] * 3 and all(2.3 < row["val_bpb"] < 2.5 for row in finished.rows)
    assert all(row["details"]["sandbox"] == "landlock-7+seccomp" for row in finished.rows)
    (crash,) = old.lab.query_experiments(ExperimentQuery(state=["crashed"], columns=["hypothesis", "failure"])).rows
    assert crash["hypothesis"] == "Wider heads see more at once" and "shape" in str(crash["failure"])
    counts = old.lab.query_experiments(ExperimentQuery(sql="SELECT state, count(*) AS n FROM experiments GROUP BY state ORDER BY n")).rows
    assert counts == [{"state": "crashed", "n": 1}, {"state": "finished", "n": 6}]
    (note,) = old.lab.search_memory("one layer or two").memories
    assert note.text == "One layer beats two at a budget of one second." and note.commits == [CHAMPION]
    assert old.lab.promote_commit(CHAMPION, "ada").verdict.code == "is_champion", "what the old rule decided stays decided"
    hidden = [score.test_bpb for score in old.ledger.scores(CHAMPION)]
    assert len(hidden) == 3 and None not in hidden
    assert "is invalid for input of size" in old.lab.read_log(crash["id"], mode="grep", pattern="RuntimeError")


def test_a_proposal_on_its_champion_trains_to_a_verified_result(old: LabHarness) -> None:
    edits = [{"path": "train.py", "search": "SOFTCAP = 15.0", "replace": "SOFTCAP = 0.0"}]
    with runner_lock(old.state):
        proposal = old.lab.propose_patch("Logits without a softcap", "ada", edits=edits)
        (id,) = old.lab.launch_training(proposal.commit, "ada").experiments
    assert proposal.base == CHAMPION and "from trainer import client" in old.lab.read_file("train.py", proposal.commit).text
    old.drive(command=(sys.executable, "-m", "autoresearch_mcp.trainer.launch"))
    (row,) = old.lab.query_experiments(ExperimentQuery(commit=proposal.commit, columns=["state", "val_bpb", "failure", "conditions"])).rows
    assert (row["id"], row["state"]) == (id, "finished") and 2 < row["val_bpb"] < 4, row["failure"]
    (score,) = old.ledger.scores(proposal.commit)
    assert score.test_bpb is not None
    rows = old.lab.query_experiments(ExperimentQuery(commit=CHAMPION, columns=["author", "conditions"])).rows
    (before,) = {each["conditions"] for each in rows if each["author"] != "lab"}
    (beside,) = {each["conditions"] for each in rows if each["author"] == "lab"}  # the champion is measured anew, beside the proposal
    assert row["conditions"] == beside
    assert row["conditions"] != before, "other fixed files measured it, so nobody compares the two"
    verdict = old.lab.promote_commit(proposal.commit, "ada").verdict
    assert (verdict.code, verdict.n, verdict.m) == ("champion", 1, 1), "of the champion, only what the lab trained counts now"
