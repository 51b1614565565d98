"""What a user asks of a campaign: each question takes one call, and its answer fits its cap.

One scripted client over stdio in one lab, whose measurements the test writes as the runner would, so nothing is trained.
"""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

from tests.server.mcp.conftest import FakeRunnerLab, make_runner_lab
from tests.server.mcp.pipe import SERVE

pytestmark = pytest.mark.anyio

CHAMPION = [1.601, 1.604, 1.599, 1.606, 1.597, 1.602, 1.608, 1.5985]
IDEAS = {"RATE = 0.05": ("ada", [1.5712, 1.5743, 1.5691]), "DEPTH = 3": ("bob", [1.5988]), "WIDTH = 96": ("bob", [None])}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def runner_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRunnerLab]:
    yield from make_runner_lab(tmp_path_factory.mktemp("labs") / "lab")


@pytest.fixture(scope="module")
async def campaign(runner_lab: FakeRunnerLab) -> AsyncIterator["Campaign"]:
    parameters = StdioServerParameters(command=sys.executable, args=["-c", SERVE, str(runner_lab.root)], cwd=Path.cwd())
    async with Client(parameters, mode="auto") as client:
        campaign = Campaign(client, runner_lab)
        assert len(await campaign.text("get_status")) <= 1_000, "an empty lab"
        await campaign.train("champion", "ada", list(CHAMPION), by_lab=True)
        for change, (author, values) in IDEAS.items():
            search = next(line for line in ("WIDTH = 64", "DEPTH = 2", "RATE = 0.04") if line.split()[0] == change.split()[0])
            edits = [{"path": "train.py", "search": search, "replace": change}]
            proposed = await campaign.ask("propose_patch", hypothesis=f"{change} fits the budget better.", edits=edits, author=author)
            campaign.commits[change] = proposed["commit"]
            await campaign.train(proposed["commit"], author, values)
        yield campaign


class Campaign:
    """A client of a lab in which a few ideas were tried."""

    def __init__(self, client: Client, lab: FakeRunnerLab) -> None:
        self._client = client
        self._lab = lab
        self.commits: dict[str, str] = {}
        self.experiments: dict[str, list[str]] = {}

    async def text(self, tool: str, **arguments: Any) -> str:
        """What the tool answers, as text."""
        with anyio.fail_after(30):
            result = await self._client.call_tool(tool, arguments)
        content = "\n".join(block.text for block in result.content if isinstance(block, TextContent))
        assert not result.is_error, content
        return content

    async def ask(self, tool: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.text(tool, **arguments))
        return answer

    async def train(self, commit: str, author: str, values: list[float | None], by_lab: bool = False) -> None:
        launched = await self.ask("launch_training", commit=commit, replicates=len(values), author=author)
        self.experiments[commit] = launched["experiments"]
        for n, (id, value) in enumerate(zip(launched["experiments"], values)):
            assert self._lab.ledger.start(id, 1e9) is not None
            if value is None:
                self._lab.move(id, "crashed", started_at=1.0, finished_at=2.0, conditions="k")
            else:
                self._lab.ledger.keep_evidence(id, "landlock-7+seccomp", value, None)
                used = {"weights_mb": 3.25, "peak_memory_mb": 812.3, "timings": {"startup_cpu_s": 0.91}}
                changes: dict[str, Any] = {
                    "conditions": "k",
                    "details": used,
                    "started_at": 1.0,
                    "finished_at": 30.0,
                    "by_lab": by_lab,
                    "steps": 500 - 60 * (n == 2),
                }
                self._lab.move(id, "finished", val_bpb=value, curve=[(n / 30, 3.0 - n / 30) for n in range(30)], **changes)


async def test_what_worked_by_how_much_and_how_sure(campaign: Campaign) -> None:
    rows = (await campaign.ask("query_experiments", group_by="commit"))["rows"]
    best = rows[0]
    assert best["commit"] == campaign.commits["RATE = 0.05"] and best["idea"].startswith("RATE = 0.05")
    assert (best["author"], best["n"], best["state"]) == ("ada", 3, "open (n=3)")
    assert best["gain"] == pytest.approx(0.0305, abs=5e-4) and 0.001 < best["se"] < 0.005 and best["steps"] == 500
    states = {row["commit"]: row["state"] for row in rows}
    assert states[campaign.commits["DEPTH = 3"]] == "open (n=1), within noise"
    assert "champion" in states.values()


async def test_the_status_is_short_and_says_what_a_training_costs(campaign: Campaign) -> None:
    text = await campaign.text("get_status")
    status = json.loads(text)
    assert len(text) <= 2_500 and len(status["champion"]["commit"]) == 12
    assert {"reserves_s", "slots", "left", "limits"} <= status["training"].keys() and "weights" in status["training"]["limits"]
    assert next(iter(status["cost_by_author"])) == "the lab" and "ada" in status["cost_by_author"]


async def test_why_a_commit_stands_above_the_champion(campaign: Campaign) -> None:
    board = {row["commit"]: row for row in (await campaign.ask("get_status"))["leaderboard"]}
    assert board[campaign.commits["RATE = 0.05"]]["why"].startswith("open (n=3)")


async def test_what_a_proposal_changed_and_how_it_differs_from_the_champion(campaign: Campaign) -> None:
    for against in ("base", "champion", campaign.commits["DEPTH = 3"]):
        assert "+RATE = 0.05" in await campaign.text("read_file", commit=campaign.commits["RATE = 0.05"], diff=against)
    assert "-DEPTH = 3" in await campaign.text("read_file", commit=campaign.commits["RATE = 0.05"], diff=campaign.commits["DEPTH = 3"])
    shown = await campaign.ask("get_experiment", id=campaign.commits["RATE = 0.05"], include="diff")
    assert "+RATE = 0.05" in shown["diff"]


async def test_two_commits_side_by_side_with_their_curves(campaign: Campaign) -> None:
    rows = (await campaign.ask("get_experiment", id=[campaign.commits["RATE = 0.05"], campaign.commits["DEPTH = 3"]]))["rows"]
    assert [row["n"] for row in rows] == [3, 1] and all(len(row["curve"]) == 12 for row in rows)


async def test_curves_of_the_best_against_the_champion_as_picture_and_points(campaign: Campaign) -> None:
    text = await campaign.text("plot_progress", commits=[campaign.commits["RATE = 0.05"], campaign.commits["DEPTH = 3"]])
    champion, rate, depth = (line for line in text.splitlines() if "(n=" in line)
    assert champion.startswith("champion") and "RATE = 0.05" in rate and "(n=3)" in rate and "(n=1)" in depth
    assert all(line.count("%") >= 12 for line in (champion, rate, depth)) and "from the champion's" in rate and len(text) < 2_000


async def test_what_is_to_be_done_next_and_when_the_queue_is_empty(campaign: Campaign) -> None:
    rate, depth = campaign.commits["RATE = 0.05"], campaign.commits["DEPTH = 3"]
    launched = await campaign.ask("launch_training", commit=depth, author="ada")
    assert "Done in about 29 s, place 1 of 1 in the queue; the queue is empty in about 29 s" in launched["note"]
    status = await campaign.ask("get_status")
    assert status["training"]["queue_s"] == 29 and status["next"][:2] == [
        f"Your {rate} (+0.0304, n=3) is open: launch_training(commit='{rate}', until='decided').",
        "Yours: 0 running, 1 queued, done in about 29 s. wait_for_experiments tells when they end.",
    ]
    waited = await campaign.ask("wait_for_experiments", timeout_s=1)
    assert [(row["id"], row["position"], row["done_in_s"]) for row in waited["experiments"]] == [(launched["experiments"][0], 1, 29)]
    verdict = (await campaign.ask("promote_commit", commit=depth))["verdict"]
    assert verdict["code"] == "continue" and verdict["next"] == "0 running and 1 queued of it, done in about 29 s: wait, then ask again."
    await campaign.ask("cancel_experiment", ids=launched["experiments"], author="ada")


async def test_who_did_what(campaign: Campaign) -> None:
    sql = "SELECT who, action, count(*) AS n FROM changes WHERE action = 'propose_patch' GROUP BY who ORDER BY who"
    rows = (await campaign.ask("query_experiments", sql=sql))["rows"]
    assert rows == [{"who": "ada", "action": "propose_patch", "n": 1}, {"who": "bob", "action": "propose_patch", "n": 2}]
    assert (await campaign.ask("query_experiments", author="bbo"))["note"] == "There is no author 'bbo'; there are: ada, bob."


async def test_an_experiment_speaks_of_its_commit_and_marks_a_disturbed_run(campaign: Campaign) -> None:
    steady, _, slow = campaign.experiments[campaign.commits["RATE = 0.05"]]
    text = await campaign.text("get_experiment", id=slow)
    assert len(text) <= 1_200
    answer = json.loads(text)
    assert answer["against_champion"].startswith("Its commit has mean 1.5715 (n=3): 0.0304 ± 0.0024 bits per byte better")
    assert answer["disturbed"].startswith("-12% steps") and "disturbed" not in await campaign.ask("get_experiment", id=steady)
    assert answer["used"] == "3.25 of 64 MB of weights, 812 of 4096 MB of memory, 0.91 of 2 free CPU s before start()"
    waited = {row["id"]: row for row in (await campaign.ask("wait_for_experiments", ids=[steady, slow], timeout_s=1))["experiments"]}
    assert waited[slow]["disturbed"] == "-12% steps" and "disturbed" not in waited[steady]
    assert "curve" not in answer and len((await campaign.ask("get_experiment", id=slow, include=["curve"]))["curve"]) == 12
