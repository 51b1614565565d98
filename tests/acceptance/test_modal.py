"""A lab that trains on Modal, as an agent sees it: a real client, server and runner; Modal's client talks to a stand-in, whose sandboxes really train."""

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from mcp import Client

from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.making import NewRepo
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import stop_runner
from autoresearch_mcp.trainer.gpu_check.variants import with_a_look_ahead
from tests.acceptance.test_swarm import answer, server
from tests.standins.modal.standin import Standin
from tests.waiting import until

SLOW, GOOD = "UNEMBEDDING_LR = 0.00004", "UNEMBEDDING_LR = 0.004"


@pytest.fixture
def lab(make_modal_lab: Callable[..., Path]) -> Path:
    """Its champion hardly learns."""
    root = make_modal_lab()
    stock = (root / "train.py").read_text(encoding="utf-8")
    assert stock.count(GOOD) == 1
    NewRepo(root).commit_files({"train.py": stock.replace(GOOD, SLOW).encode()}, "A slow start")
    return root


@pytest.mark.anyio
async def test_a_gain_is_trained_in_one_sandbox_measured_in_another_paid_and_promoted_and_a_look_ahead_is_barred(
    lab: Path, modal_standin: Standin
) -> None:
    with anyio.fail_after(420):
        async with Client(server(lab)) as client:
            edits = [{"path": "train.py", "search": SLOW, "replace": GOOD}]
            idea = {"hypothesis": "A faster unembedding lowers val_bpb.", "author": "ada", "edits": edits}
            commit = (await answer(client, "propose_patch", **idea))["commit"]
            launched = await answer(client, "launch_training", commit=commit, until="decided", author="ada")
            cheat = {"hypothesis": "A look ahead.", "author": "mallory", "files": {"train.py": with_a_look_ahead(0.01)}}
            barred = (await answer(client, "propose_patch", **cheat))["commit"]
            await answer(client, "launch_training", commit=barred, author="mallory")
            before = (await answer(client, "get_status"))["budget"]["usd"]
            assert before["spent"] == 0 and before["running"] + before["reserved"] > 0.0003 * 180, "what it can cost at most is held back"
            refused = await answer(client, "promote_commit", commit=commit, author="ada")
            assert not refused["promoted"] and refused["verdict"]["code"] in ("continue", "champion")
            while not (await answer(client, "wait_for_experiments", ids=[launched["until_decided"]], timeout_s=40))["done"]:
                pass
            promoted = await answer(client, "promote_commit", commit=commit, author="ada")
            while (status := await answer(client, "get_status")).get("running"):
                rest = [line["id"] for line in status.get("running", [])]
                await answer(client, "wait_for_experiments", ids=rest, timeout_s=40)
            caught = (await answer(client, "promote_commit", commit=barred, author="mallory"))["verdict"]
            rows = (await answer(client, "query_experiments", limit=100, columns=["id", "commit", "created_at"]))["rows"]
            every = [await answer(client, "get_experiment", id=row["id"], include=["curve", "log"]) for row in rows]

    own = [each for each in every if each["experiment"]["commit"] == commit]
    first, money = own[0], status["budget"]["usd"]
    line = first["experiment"]
    assert (line["state"], line["device"], line["commit"]) == ("finished", "cpu", commit), first
    assert 1 < line["val_bpb"] < 10 and "reported_bpb" not in line and "verified" in status["metric"]
    assert first["cost_usd"] == pytest.approx(0.0003 * first["cost_s"], abs=1e-4) and first["cost_s"] > 5
    assert money["spent"] == money["last_hour"] == pytest.approx(sum(money["by_agent"].values()), abs=1e-3)
    assert set(money["by_agent"]) == {"ada", "mallory", "lab"}
    assert money["spent"] == pytest.approx(sum(each["cost_usd"] for each in every), abs=1e-3)
    assert (money["running"], money["reserved"], money["total"]) == (0, 0, 25)
    assert first["curve"] and first["log_tail"]

    assert promoted["promoted"] and promoted["verdict"]["n"] == len(own) >= 3 and promoted["verdict"]["m"] >= 8, promoted
    assert len({each["experiment"]["seed"] for each in own}) == len(own)
    assert (status["champion"]["commit"], status["promotions"]) == (commit, 1) and Repo(lab).champion().startswith(commit)

    (cheated,) = [each for each in every if each["experiment"]["commit"] == barred]
    assert cheated["failure"]["kind"] == "invalid_model" and "looks ahead" in cheated["failure"]["message"]
    assert caught["code"] == "barred", caught

    id = line["id"]
    (trainer,) = modal_standin.containers(experiment=id)
    (scorer,) = [c for c in modal_standin.containers(stage="score") if any(id in text for text in c["argv"])]
    ids = [row["id"] for row in rows]
    assert len([c for c in modal_standin.containers() if c["tags"].get("experiment") in ids]) == len(ids)
    assert (trainer["tags"]["stage"], trainer["secrets"], scorer["secrets"]) == ("train", [], [])
    assert not any("evaluation" in text for text in trainer["volumes"]) and any("evaluation" in text for text in scorer["volumes"])
    until(lambda: not modal_standin.running(lab=trainer["tags"]["lab"]))  # no orphan
    stop_runner(LabPaths(lab).state)
    secret = modal_standin.environment["MODAL_TOKEN_SECRET"].encode()
    texts = contents(lab, Path(trainer["directory"]), Path(scorer["directory"]))
    assert len(texts) > 20 and not any(secret in text for text in texts), "the token is nowhere"


def contents(*folders: Path) -> list[bytes]:
    return [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
