"""What agents read all the time is short: every one of them pays for each character, again and again."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.types import TextContent

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.mcp.app import build_server
from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab

pytestmark = pytest.mark.anyio

AGENTS = ("ada", "bob", "claude-code-3f2a")
IDEAS = (
    "Warm the learning rate up over the first tenth of the budget, because early steps diverge.",
    "Halve the batch: more steps fit the budget, and the noise of small batches costs less than steps gain.",
    "Tie the embeddings, which frees parameters for a wider stream at equal cost.",
    "A second-order optimizer for matrices, as its steps are worth more than the time they take.",
    "Drop the softcap: logits stay small at this size, and the tanh costs time.",
    "Initialise the output layer with zeros, so that the first loss is that of the uniform distribution.",
)


@pytest.fixture(scope="module")
def runner_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


@pytest.fixture(scope="module")
async def client(runner_lab: FakeRunnerLab) -> AsyncIterator[Client]:
    with contextlib.closing(Lab(runner_lab.root)) as lab:
        async with Client(build_server(lab)) as client:
            yield client


async def text(client: Client, tool: str, **arguments: Any) -> str:
    with anyio.fail_after(20):
        result = await client.call_tool(tool, arguments)
    content = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
    assert not result.is_error, content
    return content


async def propose(client: Client, width: int, hypothesis: str, author: str) -> str:
    edits = [{"path": "train.py", "search": "WIDTH = 64", "replace": f"WIDTH = {width}"}]
    answer = json.loads(await text(client, "propose_patch", hypothesis=hypothesis, edits=edits, author=author))
    return str(answer["commit"])


async def launch(client: Client, commit: str, author: str, count: int) -> list[str]:
    launched = json.loads(await text(client, "launch_training", commit=commit, author=author, replicates=count, confirm=True))
    ids: list[str] = launched["experiments"]
    return ids


def end(lab: FakeRunnerLab, ids: list[str], level: float, by_lab: bool = False) -> None:
    for n, id in enumerate(ids):
        assert lab.ledger.start(id, 1e9) is not None
        lab.ledger.keep_evidence(id, "landlock-7+seccomp", level + n / 1000, None)
        changes: dict[str, Any] = {"val_bpb": level + n / 1000, "conditions": "k", "steps": 500 + n, "by_lab": by_lab, "cpu_share": 0.97}
        lab.move(id, "finished", started_at=1.0, finished_at=38.0 + n, **changes)


async def test_the_status_stays_short_as_a_lab_fills(client: Client, runner_lab: FakeRunnerLab) -> None:
    assert len(await text(client, "get_status")) <= 1_000, "an empty lab"
    end(runner_lab, await launch(client, "champion", "lab", 8), 1.6, by_lab=True)
    commits = [await propose(client, 65 + n, idea, AGENTS[n % 3]) for n, idea in enumerate(IDEAS)]
    for n, commit in enumerate(commits):
        end(runner_lab, await launch(client, commit, AGENTS[n % 3], 7), 1.58 + n / 100)
    crashed = await launch(client, commits[0], AGENTS[0], 1)
    runner_lab.move(crashed[0], "crashed", failure={"kind": "oom", "message": "out of memory: 4,300 MB of 4,096. " * 5})
    open_ = [id for n in range(4) for id in await launch(client, commits[n], AGENTS[n % 3], 2)]
    for id in open_[:2]:
        assert runner_lab.ledger.start(id, 1e9) is not None
    status = await text(client, "get_status")
    assert len(status) <= 2_500 and sum(json.loads(status)["counts"].values()) == 59
    ended = json.loads(await text(client, "query_experiments", state="finished", limit=1))["rows"][0]["id"]
    assert max([len(await text(client, "get_experiment", id=id)) for id in (ended, crashed[0], open_[0], open_[-1])]) <= 1_200


async def test_the_status_has_a_cap_however_long_others_texts_are(client: Client, runner_lab: FakeRunnerLab) -> None:
    toml = runner_lab.root / "lab.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + "\n[lab]\nname = 5\n", encoding="utf-8")  # a warning
    for n in range(10):
        author = f"{n:x}" * 64
        commit = await propose(client, 200 + n, f"{n} is the number of this idea, " + "whose reasons go on and on " * 60, author)
        await text(client, "launch_training", commit=commit, until="decided", author=author, confirm=True)
    status = await text(client, "get_status")
    assert len(status) <= 4_000 and json.loads(status)["next"] and json.loads(status)["leaderboard"]
