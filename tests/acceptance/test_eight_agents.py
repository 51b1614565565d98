"""Eight agents, four over stdio and four over HTTP, work through 60 ideas; two of them are killed and replaced.

Nothing is trained: a launcher draws each metric. AUTORESEARCH_SEED repeats which agents die, and when.
"""

import contextlib
import itertools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab.backlog import COMBINATION, SUGGESTED_BY
from autoresearch_mcp.server.lab.search_state import PATIENCE
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.roles import Role
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner
from tests.acceptance.deciding_runner import DRAWING
from tests.acceptance.working_agent import GAINING, HERE, MINUTES, TAGS, Worker, connected, text_of
from tests.server.harness import LabHarness
from tests.server.mcp.listening import served_over_http
from tests.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

IDEAS, AGENTS, SLOTS, TRAINING_S = 60, 8, 4, 0.5
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))
STALL_S = 20.0  # a slot that stands idle beside queued work for so long is forgotten, not slow; how slow the bench says


class Swarm:
    """A lab with its ideas, its runner, and the doors to it."""

    def __init__(self, harness: LabHarness, url: str) -> None:
        self.harness = harness
        self.url = url
        self.ideas = {harness.lab.write_memory("idea", text_of(n), "boss", tags=[TAGS[n % 3]]).id: n for n in range(IDEAS)}

    def door(self, seat: int, name: str) -> tuple[str, ...]:
        """Where an agent of this seat connects: the first four have a server of their own, the others a token, and may promote."""
        if seat < AGENTS / 2:
            return (str(self.harness.root),)
        with contextlib.suppress(Exception):
            self.harness.ledger.revoke_token(name)
        return (self.url, self.harness.ledger.add_token(name, Role.ORCHESTRATOR, None))

    async def work(self, seat: int, name: str) -> None:
        """Be an agent that lives."""
        async with connected(name, *self.door(seat, name)) as client:
            worker = Worker(client)
            await worker.work(await worker.wake())

    async def close(self, name: str) -> None:
        """Be the last agent: try what the dead held and never trained, and promote the change that gains, where its agent died before that."""
        async with connected(name, *self.door(AGENTS, name)) as client:
            worker = Worker(client)
            await worker.work(await worker.wake())
            if not self.harness.ledger.promotions():
                (commit,) = [commits[-1] for idea, commits in self.harness.ledger.commits_of_ideas().items() if self.ideas[idea] == GAINING]
                passes = f"{commit[:12]} passes the gate: promote_commit(commit='{commit[:12]}')."
                decided = passes in "\n".join((await worker.wake())["next"])
                print(f"{name} {'' if decided else 'has decided and '}promotes {commit[:12]}: its agent died before that")
                if not decided:
                    await worker.decide(commit, f"{name} decides")
                    assert passes in "\n".join((await worker.wake())["next"])
                await worker.promote(commit)

    async def die_and_be_replaced(self, seat: int, name: str, heir: str, dice: random.Random) -> None:
        """Run an agent as a process, kill it at a random call, and have another go on that knows nothing but its last cursor."""
        calls = dice.randrange(3, 22)
        command = [sys.executable, "-m", "tests.acceptance.working_agent", name, *self.door(seat, name)]
        with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
            assert process.stdout is not None
            try:
                lines = [await anyio.to_thread.run_sync(process.stdout.readline) for _ in range(calls + 2)]
                await anyio.sleep(dice.uniform(0, 0.1))  # the random instant is the test
            finally:
                process.kill()
        died_at, cursor = time.time(), lines[1].strip()
        print(f"seed {SEED}: {name} killed in its call {calls}, {lines[-1].strip()}; {heir} goes on")
        async with connected(heir, *self.door(seat, heir)) as client:
            worker = Worker(client)
            if name != heir:  # a server whose client died may still have written
                await anyio.to_thread.run_sync(until, lambda: not serving(name, self.harness.root), 20)
            held = [claim for claim in self.harness.ledger.claims() if claim.holder == name]
            assert all(claim.until <= died_at + 60 * MINUTES + 1 for claim in held)
            slept_at = int(cursor.split(".")[-1]) / 1000
            await anyio.to_thread.run_sync(until, lambda: self.has_news(slept_at, heir), 60)  # one may die before anybody is done
            tried = self.harness.ledger.commits_of_ideas()  # a call that the dead had sent may still be at work
            moved = any(each.created_at > slept_at for each in self.harness.ledger.promotions())
            status = await worker.wake(since=cursor)
            self.check_wake(status, moved)
            for claim in held:
                commits = tried.get(claim.idea) or [
                    f"propose_patch(idea='{claim.idea}')",
                    *self.harness.ledger.commits_of_ideas().get(claim.idea, []),
                ]
                steps = [each for each in status["next"] if each.startswith(f"You hold {claim.idea} 'Idea {self.ideas[claim.idea]}: ")]
                if heir == name:
                    assert len(steps) == 1 and any(each[:12] in steps[0] for each in commits), (commits, status["next"])
                else:
                    assert not steps, "it is another's while the lease lasts"
            await worker.work(status)

    def has_news(self, since: float, heir: str) -> bool:
        """Return whether a training of another agent ended since then."""
        rows = self.harness.ledger.ended([start.experiment for start in self.harness.ledger.starts(10**6)]).values()
        return any(row["finished_at"] > since and not row["by_lab"] and row["author"] not in (heir, heir.removesuffix("b")) for row in rows)

    def check_wake(self, status: dict[str, Any], moved: bool) -> None:
        """The first answer says where the lab stands, what happened, whether the champion moved among it, and what to do next."""
        news = "\n".join(status["news"])
        assert status["champion"]["commit"] and status["budget"]["left_s"] > 0
        assert (status["search"]["state"] == "searching") is (status["search"]["commits"] < PATIENCE), status["search"]
        assert len({each["tag"] for each in status["directions"]} & {*TAGS, COMBINATION}) >= 2, "the latest ones"
        assert "Trainings of agent-" in news, "what others trained meanwhile"
        assert status["news"][0].startswith("The champion moved from ") or not moved
        free = "untried and free: claim_idea one of search_memory(kind='idea', free=true)"
        champion, ledger = self.harness.lab.champion(), self.harness.ledger
        assert free in "\n".join(status["next"]) or not ledger.free_ideas("nobody", [champion, *ledger.bases(champion)])


def serving(name: str, root: Path) -> list[str]:
    lines = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if f"serve --as {name} {root}" in line]


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[Swarm]:
    root = tmp_path / "swarming"
    create_lab(root, profile="tiny", budget_s=1.0)
    toml = root / "lab.toml"
    text = toml.read_text(encoding="utf-8").replace("slots = 0", f"slots = {SLOTS}")
    toml.write_text(text.replace('editable = ["train.py"]', 'editable = ["train.py", "ideas/**"]'), encoding="utf-8")
    harness = LabHarness(root)
    settings, lake = lab_settings.load(root), EmbeddedLake(harness.state / "lake")
    compute = LocalCompute("tiny", 1, harness.state / "runner.log", command=(sys.executable, str(DRAWING), str(TRAINING_S), "0.0"))
    runner = Runner(settings, harness.state, harness.ledger, Repo(root, settings.training.editable), lake, compute)
    with runner_lock(harness.state) as mine, served_over_http(root) as server:
        assert mine
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(runner.run, 1e9)
            yield Swarm(harness, server.url)
            runner.stopping.set()
    lake.close()
    harness.close()


async def test_eight_agents_work_through_sixty_ideas_though_two_die(swarm: Swarm) -> None:
    dice = random.Random(SEED)
    heirs = dict(zip(dice.sample(range(AGENTS), 2), ["the same", "another"], strict=True))
    with anyio.fail_after(400):
        async with anyio.create_task_group() as tasks:
            for seat in range(AGENTS):
                name = f"agent-{seat}"
                if seat in heirs:
                    heir = name if heirs[seat] == "the same" else f"{name}b"
                    tasks.start_soon(swarm.die_and_be_replaced, seat, name, heir, random.Random(f"{SEED} {seat}"))
                else:
                    tasks.start_soon(swarm.work, seat, name)
        while swarm.harness.ledger.claims():  # of the dead; they end by the clock, which is no event  # noqa: ASYNC110
            await anyio.sleep(0.2)  # between two looks
        await swarm.close("the last")
    check_ideas(swarm)
    rows = list(swarm.harness.ledger.ended([start.experiment for start in swarm.harness.ledger.starts(10**6)]).values())
    busy, stall, most = slots(rows)
    print(f"slots busy {busy:.1%} of the time in which something was queued; none idle beside it for longer than {stall:.2f} s")
    assert stall < STALL_S and most == SLOTS
    status = swarm.harness.lab.status()
    assert (status.promotions, status.budget.reserved_s) == (1, 0)
    directions = {each.tag: (each.ideas, each.tried, each.who) for each in status.directions if each.tag != COMBINATION}
    assert directions == {tag: (20, 20, []) for tag in TAGS}
    assert [each.promoted for each in status.directions if each.tag == TAGS[GAINING % 3]] == [1]


def check_ideas(swarm: Swarm) -> None:
    """Each idea was trained once before anybody knew its result; what was trained again was meant to be decided.

    What a dead agent had proposed and not launched may have been proposed again on a newer champion, by who took the idea after its lease.
    """
    ledger = swarm.harness.ledger
    tried = ledger.commits_of_ideas()
    left = swarm.harness.lab.search_memory(kind="idea", free_for="anybody").memories
    assert set(tried) == set(swarm.ideas) and {each.author for each in left} <= {SUGGESTED_BY}
    for idea, commits in tried.items():
        rows = [row for commit in commits for row in ledger.ended_of(commit)]
        single = [row for row in rows if not (row["candidacy"] or row["by_lab"])]
        assert [row["state"] for row in single] == ["finished"], (idea, rows)
        assert len(rows) == 1 or swarm.ideas[idea] == GAINING
    for claim in ledger.happened(ledger.cursor().parse("0.0.0.0.0"), "anybody", limit=1_000).claims:
        assert claim.until <= claim.renewed_at + 60 * MINUTES + 1e-6
    authors = Counter(row["author"] for row in ledger.ended([s.experiment for s in ledger.starts(10**6)]).values())
    print(f"{len(tried)} ideas, trained by " + ", ".join(f"{author}: {count}" for author, count in sorted(authors.items())))


def slots(rows: list[dict[str, Any]]) -> tuple[float, float, int]:
    """The share of the slots' time that was used while something was queued, for how long one stood idle beside it, and how many were used at once."""
    moments = sorted(_moments(rows))
    queued = running = most = 0
    used = whole = stall = longest = 0.0
    for (at, change, started), (after, *_) in itertools.pairwise(moments):
        queued, running, span = queued + change, running + started, after - at
        if queued > 0:
            used, whole = used + min(running, SLOTS) * span, whole + SLOTS * span
        stall = stall + span if queued > 0 and running < SLOTS else 0.0
        longest, most = max(longest, stall), max(most, running)
    return used / whole, longest, most


def _moments(rows: list[dict[str, Any]]) -> Iterator[tuple[float, int, int]]:
    """When something was queued, began or ended: the changes of how much is queued, and of how much runs."""
    for row in rows:
        yield row["created_at"], 1, 0
        yield row["started_at"], -1, 1
        yield row["finished_at"], 0, -1
