"""A lab that trains on Modal, as an agent sees it: a real client, server and runner; Modal's client talks to a stand-in, whose sandboxes really train."""

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from mcp import Client

from server import settings
from server.daemon import stop_runner
from tests.acceptance.test_swarm import answer, server
from tests.standins.modal.standin import Standin
from tests.waiting import until


@pytest.fixture
def lab(make_modal_lab: Callable[..., Path]) -> Path:
    return make_modal_lab()


@pytest.mark.anyio
async def test_a_proposal_is_trained_in_one_sandbox_measured_in_another_and_paid(lab: Path, modal_standin: Standin) -> None:
    with anyio.fail_after(90):
        async with Client(server(lab)) as client:
            edits = [{"path": "train.py", "search": "SOFTCAP = 15.0", "replace": "SOFTCAP = 20.0"}]
            idea = {"hypothesis": "A looser softcap lowers val_bpb.", "author": "ada", "edits": edits}
            commit = (await answer(client, "propose_patch", **idea))["commit"]
            (id,) = (await answer(client, "launch_training", commit=commit, author="ada"))["experiments"]
            before = (await answer(client, "get_status"))["budget"]["usd"]
            assert before["spent"] == 0 and before["running"] + before["reserved"] > 0.0003 * 180, "what it can cost at most is held back"
            while not (await answer(client, "wait_for_experiments", ids=[id], timeout_s=40))["done"]:
                pass
            found = await answer(client, "get_experiment", id=id)
            status = await answer(client, "get_status")

    line, money = found["experiment"], status["budget"]["usd"]
    assert (line["state"], line["device"], line["commit"]) == ("finished", "cpu", commit), found
    assert 1 < line["val_bpb"] < 10 and "reported_bpb" not in line and "verified" in status["metric"]
    assert found["cost_usd"] == pytest.approx(0.0003 * found["cost_s"], abs=1e-4) and found["cost_s"] > 5
    assert money["spent"] == money["last_hour"] == money["by_agent"]["ada"] == pytest.approx(found["cost_usd"], abs=1e-4)
    assert (money["running"], money["reserved"], money["total"]) == (0, 0, 25)
    assert found["curve"] and found["log_tail"]

    (trainer,) = modal_standin.containers(experiment=id)
    (scorer,) = [c for c in modal_standin.containers(stage="score") if any(id in text for text in c["argv"])]
    assert (trainer["tags"]["stage"], trainer["secrets"], scorer["secrets"]) == ("train", [], [])
    assert not any("evaluation" in text for text in trainer["volumes"]) and any("evaluation" in text for text in scorer["volumes"])
    until(lambda: not modal_standin.running(lab=trainer["tags"]["lab"]))
    stop_runner(lab / settings.STATE)
    secret = modal_standin.environment["MODAL_TOKEN_SECRET"].encode()
    texts = contents(lab, Path(trainer["directory"]), Path(scorer["directory"]))
    assert len(texts) > 20 and not any(secret in text for text in texts), "the token is nowhere"


def contents(*folders: Path) -> list[bytes]:
    return [path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()]
