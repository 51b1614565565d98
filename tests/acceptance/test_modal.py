"""A lab that trains on Modal, as an agent sees it: a real client, server and runner; Modal's client talks to a stand-in, whose sandboxes really train."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from mcp import Client

from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import stop_runner
from autoresearch_mcp.trainer.gpu_check.variants import with_a_look_ahead
from tests.acceptance.serving import answer, server
from tests.standins.modal.standin import Standin
from tests.trainings import BAD, GOOD, QUICK
from tests.waiting import until

pytestmark = pytest.mark.slow

FAILING = """\
    def fail(*_):
        calls.append(1)
        assert len(calls) < 3, "it may choose by what it was asked"

    calls, model = [], Model(config)
    model.register_forward_pre_hook(fail)
    return model
"""


@pytest.fixture
def lab(make_modal_lab: Callable[..., Path]) -> Path:
    """Its champion learns little, but in a moment."""
    assert QUICK.count("    submit(run, model, config)\n") == 1
    return make_modal_lab(train=QUICK.replace(GOOD, BAD).replace("    submit(run", "    print('counted')\n    submit(run"))


@pytest.fixture
def stock(lab: Path) -> str:
    """The commit with the stock train.py, below the champion."""
    return subprocess.run(["git", "-C", lab, "rev-parse", "main~1"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.anyio
async def test_a_gain_is_trained_in_one_sandbox_measured_in_another_paid_and_promoted_and_cheats_are_not(
    lab: Path, modal_standin: Standin, stock: str
) -> None:
    with anyio.fail_after(420):
        async with Client(server(lab)) as client:
            edits = [{"path": "train.py", "search": BAD, "replace": GOOD}]
            idea = {"hypothesis": "Less smoothing lowers val_bpb.", "author": "ada", "edits": edits}
            commit = (await answer(client, "propose_patch", **idea))["commit"]
            launched = await answer(client, "launch_training", commit=commit, until="decided", author="ada")
            cheat = {"hypothesis": "A look ahead.", "author": "mallory", "files": {"train.py": with_a_look_ahead(0.01)}, "base": stock}
            barred = (await answer(client, "propose_patch", **cheat))["commit"]
            await answer(client, "launch_training", commit=barred, author="mallory", confirm=True)
            fails = {"path": "train.py", "search": "    return Model(config)\n", "replace": FAILING}
            choosy = {"hypothesis": "It fails at will.", "author": "mallory", "edits": [fails], "base": commit}
            failing = (await answer(client, "propose_patch", **choosy))["commit"]
            await answer(client, "launch_training", commit=failing, author="mallory", confirm=True)
            (unlucky,) = (await answer(client, "launch_training", commit=commit, author="ada", confirm=True))["experiments"]
            before = (await answer(client, "get_status"))["budget"]["usd"]
            assert before["spent"] == 0 and before["running"] + before["reserved"] > 0.0003 * 180, "what it can cost at most is held back"
            refused = await answer(client, "promote_commit", commit=commit, author="ada")
            assert not refused["promoted"] and refused["verdict"]["code"] in ("continue", "champion")
            begun = {"ids": [unlucky], "timeout_s": 1}
            while (await answer(client, "wait_for_experiments", **begun))["experiments"][0]["state"] in ("queued", "starting"):
                pass
            await answer(client, "cancel_experiment", ids=[unlucky], author="ada")
            while not (await answer(client, "wait_for_experiments", ids=[launched["until_decided"]], timeout_s=40))["done"]:
                pass
            promoted = await answer(client, "promote_commit", commit=commit, author="ada")
            while (status := await answer(client, "get_status")).get("running"):
                rest = [line["id"] for line in status.get("running", [])]
                await answer(client, "wait_for_experiments", ids=rest, timeout_s=40)
            caught = [
                (await answer(client, "promote_commit", commit=each, author="mallory"))["verdict"]["code"] for each in (barred, failing)
            ]
            rows = (await answer(client, "query_experiments", limit=100, columns=["id", "commit", "created_at"]))["rows"]
            ids = [*(row["id"] for row in rows), unlucky]  # rows are without what was cancelled
            every = [await answer(client, "get_experiment", id=each, include=["curve", "log"]) for each in ids]

    own = [each for each in every if each["experiment"]["commit"] == commit]
    given_up = own.pop()["experiment"]
    assert (given_up["id"], given_up["state"]) == (unlucky, "cancelled")
    assert given_up["seed"] in [each["experiment"]["seed"] for each in own], "it is trained again"
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

    assert caught == ["barred", "barred"]
    (failed,) = [each for each in every if each["experiment"]["commit"] == failing]
    assert failed["failure"]["kind"] == "invalid_model" and "may choose" not in str(failed["failure"])
    (cheated,) = [each for each in every if each["experiment"]["commit"] == barred]
    assert cheated["failure"]["kind"] == "invalid_model" and "looks ahead" in cheated["failure"]["message"]

    id = line["id"]
    (trainer,) = modal_standin.containers(experiment=id)
    (scorer,) = [c for c in modal_standin.containers(stage="score") if any(id in text for text in c["argv"])]
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
