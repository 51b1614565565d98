"""What the hidden split says is in nothing that a client can fetch, and in no file of the lab but the ledger."""

import contextlib
import json
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from autoresearch_mcp.server import cli
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.harness import LabHarness

pytestmark = pytest.mark.anyio

# A launcher that trains nothing: what the commit is worth on each split stands in its train.py, the seed adds the noise.
LAUNCHER = """
import json, re, sys
from dataclasses import replace
from pathlib import Path
from autoresearch_mcp.trainer import protocol
for line in sys.stdin:
    run = Path(line.strip())
    val, test = (int(text) / 1000 for text in re.search(r"# val (\\d+) test (\\d+)", (run / "code/train.py").read_text()).groups())
    seed = json.loads((run / "spec.json").read_text())["seed"]
    noise = seed % 1_000_003 * 1e-9
    hashes = {"fixed": "", "data": "", "tokenizer": "", "code": "", "weights": str(seed)}
    result = protocol.Result("finished", val + noise, val, sandbox="landlock-7", hashes=hashes, versions={"torch": ""})
    (run / "run.log").write_text("trained\\n")
    (run / "launcher.lock").write_text("1")
    protocol.write_hidden(run, test + noise)
    protocol.write_json(run / "result.json", result)
    print("{}", flush=True)
"""


class Campaign:
    """A champion, a commit that the hidden split confirms and one that it doesn't, each with enough replicates for a verdict."""

    def __init__(self, root: Path) -> None:
        self.harness = LabHarness(root)
        lab = self.harness.lab
        with runner_lock(self.harness.state):
            self.first = self.propose("DEPTH = 2", f"DEPTH = 3{WORTH.format(1500, 71828)}")
            self.harness.git("update-ref", "refs/heads/research", self.first)  # the stock train.py says no numbers
            self.good = self.propose(WORTH.format(1500, 71828), f" + 1{WORTH.format(1400, 61803)}")
            self.bad = self.propose(WORTH.format(1500, 71828), f" + 2{WORTH.format(1400, 94159)}")
            self.experiments = [id for c in (self.first, self.good, self.bad) for id in lab.launch_training(c, "ada", 8).experiments]
        self.harness.drive(command=(sys.executable, "-c", LAUNCHER))
        self.scores = [score for c in (self.first, self.good, self.bad) for score in self.harness.ledger.scores(c)]

    def propose(self, old: str, new: str) -> str:
        edits = [{"path": "train.py", "search": old, "replace": new}]
        return self.harness.lab.propose_patch("Another depth.", "ada", edits=edits).commit


WORTH = "  # val {} test {}"
HIDDEN = r"(?<![\d.])(71\.8[23]|61\.80|94\.1[56])\d*"  # every one of them, and their means, to any number of decimals


def holds(data: bytes, packed: list[bytes]) -> bool:
    return any(value in data for value in packed) or re.search(HIDDEN.encode(), data) is not None


@pytest.fixture
def campaign(make_lab: Callable[..., Path]) -> Iterator[Campaign]:
    campaign = Campaign(make_lab())
    yield campaign
    campaign.harness.close()


async def test_no_answer_to_a_client_holds_a_score_of_the_hidden_split(campaign: Campaign) -> None:
    id, commit = campaign.experiments[0], campaign.good
    calls: dict[str, list[dict[str, Any]]] = {
        "get_status": [{}],
        "read_file": [{}],
        "propose_patch": [
            {
                "hypothesis": "The same again, please.",
                "edits": [{"path": "train.py", "search": "HEAD_DIM = ", "replace": "HEAD_DIM = 0 + "}],
            }
        ],
        "launch_training": [{"commit": commit}],
        "launch_sweep": [{"commit": commit, "parameters": {"MATRIX_LR": {"low": 0.01, "high": 0.1}}, "trials": 1, "sampler": "random"}],
        "wait_for_experiments": [{"ids": campaign.experiments}],
        "get_experiment": [{"id": id, "include": ["curve", "log", "diff", "versions"]} for id in campaign.experiments],
        "read_log": [{"id": id}],
        "cancel_experiment": [{"ids": [id]}],
        "query_experiments": [
            {"columns": ["id", "details", "failure", "log_tail", "curve", "val_bpb", "reported_bpb", "tags", "conditions"]},
            {"sql": "SELECT * FROM experiments"},
            {"sql": "SELECT * FROM promotions"},
            {"group_by": "commit"},
        ],
        "write_memory": [{"kind": "finding", "text": "Nothing was seen."}],
        "search_memory": [{}],
        "claim_idea": [{"text": "The same change with another seed."}],
        "plot_progress": [{}],
        "promote_commit": [{"commit": campaign.bad}, {"commit": campaign.good}, {"commit": campaign.good}],
    }
    answers = ""
    with runner_lock(campaign.harness.state):
        async with Client(build_server(campaign.harness.lab)) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == calls.keys()
            for tool, many in calls.items():
                for arguments in many:
                    answers += (await client.call_tool(tool, arguments)).model_dump_json() + "\n"
            resources = [str(resource.uri) for resource in (await client.list_resources()).resources]
            templates = [template.uri_template for template in (await client.list_resource_templates()).resource_templates]
            for uri in [*resources, *(template.format(id=id, sha=commit) for template in templates)]:
                answers += (await client.read_resource(uri)).model_dump_json() + "\n"
    assert "not_confirmed" in answers and '\\"promoted\\":true' in answers and "1.4" in answers  # the gate did look at the split
    assert re.findall(HIDDEN, answers) == []


def test_no_file_of_the_lab_but_the_ledger_and_no_export_holds_a_score_of_the_hidden_split(
    campaign: Campaign, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harness = campaign.harness
    assert harness.ledger.unflushed() == 0 and list((harness.state / "lake").rglob("*"))
    with runner_lock(harness.state):
        assert cli.main(["export", str(tmp_path / "out"), str(harness.root)]) == 0
        assert cli.main(["status", "--json", str(harness.root)]) == 0
    assert re.findall(HIDDEN, capsys.readouterr().out) == []
    values = [score.test_bpb for score in campaign.scores if score.test_bpb is not None]
    assert len(values) == len(campaign.scores) >= 24 and all(re.fullmatch(HIDDEN, str(value)) for value in values)
    packed = [struct.pack(order, value) for value in values for order in ("<d", ">d")]
    files = [path for root in (harness.root, tmp_path / "out") for path in root.rglob("*") if path.is_file()]
    holders = {path.name for path in files if holds(path.read_bytes(), packed)}
    assert holders and all(name.startswith("ledger.sqlite") for name in holders)
    assert {path.name for path in files} >= {"result.json", "results.tsv", "experiments.parquet"}
    assert "hidden.json" not in {path.name for path in files}


def test_the_owner_sees_both_splits_on_the_command_line(campaign: Campaign, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(campaign.harness.root)
    assert cli.main(["scores", "--json", root]) == 0
    rows = {row["commit"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[campaign.bad]["test_bpb"] == pytest.approx(94.159, abs=0.01) and rows[campaign.bad]["val_bpb"] == pytest.approx(
        1.4, abs=0.01
    )
    assert all(row["n"] >= 8 for row in rows.values()) and len(rows) == 3 and rows[campaign.first]["champion"]
    assert cli.main(["scores", root]) == 0
    text = capsys.readouterr().out
    assert "+92.759" in text and campaign.bad[:12] in text and "champion" in text


def test_a_lab_without_scores_says_so(lab_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["scores", str(lab_root)]) == 0
    assert "Nothing was scored" in capsys.readouterr().out


OLD_LAUNCHER = LAUNCHER.replace("protocol.write_hidden(run, test + noise)", "hidden = test + noise").replace(
    'protocol.write_json(run / "result.json", result)',
    'protocol.write_json(run / "result.json", {**vars(result), "test_bpb": hidden, "curve": [], "failure": None})',
)


def test_a_run_that_was_on_its_way_before_the_score_had_a_file_of_its_own_is_recorded_all_the_same(
    make_lab: Callable[..., Path],
) -> None:
    with contextlib.closing(LabHarness(make_lab())) as harness:
        edits = [{"path": "train.py", "search": "DEPTH = 2", "replace": f"DEPTH = 3{WORTH.format(1500, 71828)}"}]
        with runner_lock(harness.state):
            commit = harness.lab.propose_patch("Another depth.", "ada", edits=edits).commit
            harness.git("update-ref", "refs/heads/research", commit)
            harness.lab.launch_training(commit, "ada", 1)
        harness.drive(command=(sys.executable, "-c", OLD_LAUNCHER))
        (score,) = harness.ledger.scores(commit)
        assert score.test_bpb == pytest.approx(71.828, abs=0.01)
        (result,) = harness.state.rglob("result.json")
        assert "test_bpb" not in result.read_text(encoding="utf-8") and "val_bpb" in result.read_text(encoding="utf-8")


def test_a_result_that_is_recorded_again_after_a_crash_keeps_its_hidden_score(campaign: Campaign) -> None:
    id = campaign.experiments[0]
    with contextlib.closing(LabHarness(campaign.harness.root)) as harness:
        before = harness.ledger.scores(campaign.first)[0].test_bpb
        harness.ledger.keep_evidence(id, "landlock-7", None, "w")  # as a runner does that finds the result file, its score moved already
        assert before is not None and harness.ledger.scores(campaign.first)[0].test_bpb == before
