"""A lab on a real Slurm: a campaign over MCP, and a runner that is killed around submissions."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.trainer import protocol
from tests.acceptance.serving import promote_a_gain
from tests.waiting import until

KILLS = int(os.environ.get("AUTORESEARCH_KILLS", "4"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))


@pytest.mark.anyio
async def test_a_campaign_on_the_cluster_promotes_a_gain_over_mcp(make_slurm_lab: Callable[..., Path]) -> None:
    root = make_slurm_lab(partition='"main"', before='["true"]')
    await promote_a_gain(root)


def test_kills_of_the_runner_around_submissions_lose_nothing_and_double_nothing(make_slurm_lab: Callable[..., Path]) -> None:
    """`make crash-test` kills AUTORESEARCH_KILLS times."""
    root = make_slurm_lab("killed")
    state, dice, ids = root / ".autoresearch", random.Random(SEED), list[str]()
    ledger, commit = Ledger(state / "ledger.sqlite"), Repo(root).champion()
    command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "runner", str(root)]

    def enqueue(count: int) -> None:
        line = {"commit": commit, "base": commit, "author": "ada", "hypothesis": "none", "device": "cpu", "reserved_s": 100.0}
        new = [Experiment(id=new_id("e"), seed=n, created_at=time.time() + n * 1e-6, **line) for n in range(count)]  # type: ignore[arg-type]
        ledger.enqueue(new, 1e9, None, "r", 1e9)
        ids.extend(e.id for e in new)

    for _ in range(KILLS):
        enqueue(2)
        runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: (state / "slurm.json").exists())
        time.sleep(dice.uniform(0.5, 3))  # the random instant is the test
        runner.kill()
        runner.wait()
    last = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(ledger.ended(ids)) == len(ids), 120 + 2 * KILLS)
    last.kill()
    last.wait()
    lab = (protocol.read_json(state / "slurm.json") or {})["lab"]
    queue = ["squeue", "-h", "-o", "%j"]
    until(
        lambda: lab not in subprocess.run(queue, check=True, capture_output=True, text=True).stdout
    )  # scripts end after their results are there
    ended = ledger.ended(ids)
    runs = {id: [count(run) for run in sorted((state / "runs" / id).iterdir())] for id in ids}
    print(f"\nseed {SEED}: {KILLS} kills, {len(ids)} experiments, {sum(map(len, runs.values()))} attempts")
    for id in ids:
        assert all(began <= 1 and finished <= 1 for began, finished in runs[id]), "an attempt ran twice"
        assert ended[id]["state"] == "finished" and sum(finished for _, finished in runs[id]) == 1
    ledger.close()


def count(run: Path) -> tuple[int, int]:
    """How often an attempt's job began and ended."""
    starts, ends = (len((run / name).read_text().splitlines()) if (run / name).exists() else 0 for name in ("starts", "ends"))
    return starts, ends
