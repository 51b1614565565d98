"""Servers with the agents behind them, runners and trainings are killed at random around claims, sweeps and tasks: nothing is lost or doubled.

AUTORESEARCH_KILLS sets how many kills (default 6), AUTORESEARCH_SEED repeats a sequence of them.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from mcp import Client

from autoresearch_mcp.server.lab import core
from autoresearch_mcp.server.mcp.app import build_server
from autoresearch_mcp.server.mcp.tasks import Handle
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.acceptance.deciding_runner import process
from tests.server.harness import LabHarness
from tests.server.mcp.test_tasks import TaskTaker, ask
from tests.waiting import until

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("AUTORESEARCH_KILLS", "6"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))
AGENTS = ("bob", "cleo")
IDEAS = (  # none says what another says, by words or by meaning: a claim on what says the same would be one on the same idea
    "Rotary positions instead of sinusoids",
    "Dropout on the residual stream",
    "A tokenizer with a larger vocabulary",
    "Momentum that warms up slowly",
    "Short sequences first, as a curriculum",
    "Label smoothing against overconfidence",
    "Gradient clipping by value",
    "Convolutions before attention",
    "Weights of eight bits",
    "A mixture of two experts",
    "Averages of the last checkpoints",
    "No biases anywhere",
)
TRIALS = 4


class Slaughter:
    """A lab whose processes are killed, and what they acknowledged."""

    def __init__(self, harness: LabHarness) -> None:
        self.harness = harness
        self.dice = random.Random(SEED)
        self.kills: Counter[str] = Counter()
        self.runner = process("run", str(harness.root), "0.2")
        self.asked: set[str] = set()  # keys of sweeps
        self.askers: defaultdict[str, set[str]] = defaultdict(set)  # who asked for each text
        self.sweeps: dict[str, str] = {}  # id by key
        self.cancelled: set[str] = set()
        self.claims: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)  # what each text's claims were answered with: id and holder
        self.answered: dict[str, str] = {}  # the last status of each sweep's task

    def once(self, kind: str, *arguments: str, dies: bool) -> str:
        """Have a server do something, and kill it at a random instant if it is to die. Returns what it acknowledged."""
        server = process(arguments[0], str(self.harness.root), *arguments[1:])
        if dies:
            with suppress(subprocess.TimeoutExpired):
                server.wait(self.dice.uniform(0.3, 1.5))
            if server.poll() is None:
                server.kill()
                self.kills[kind] += 1
        out, errors = server.communicate(timeout=300)
        assert dies or server.returncode == 0, errors
        return out.strip()

    def claim(self, text: str, agent: str, dies: bool) -> None:
        self.askers[text].add(agent)
        if answer := self.once("claiming", "claim", agent, text, dies=dies):
            id, holder = answer.split()
            self.claims[text].add((id, holder))

    def sweep(self, key: str, dies: bool) -> None:
        self.asked.add(key)
        number = int(key.rpartition("-")[2])
        values = [f"0.{number + 1:03d}{trial + 1}" for trial in range(TRIALS)]
        if id := self.once("sweeping", "sweep", key, *values, dies=dies):
            assert self.sweeps.setdefault(key, id) == id, "one key is one sweep"

    def cancel(self, dies: bool) -> None:
        open_ = [each.id for each in self.harness.ledger.open_sweeps() if each.id in self.sweeps.values()]
        if open_ and self.once("cancelling", "cancel", id := self.dice.choice(open_), dies=dies) == "cancelled":
            self.cancelled.add(id)

    def kill_one(self) -> None:
        """Kill at a random instant, of what can be killed now the kind that was killed least."""
        time.sleep(self.dice.uniform(0.02, 0.4))  # the random instant is the test
        if self.runner.poll() is not None:
            self.runner = process("run", str(self.harness.root), "0.2")
        training = self.harness.ledger.open_experiments("running", "starting")
        kinds = ["runner", "claiming", "sweeping", *(["training"] if training else [])]
        if self.harness.ledger.open_sweeps() and len(self.cancelled) <= len(self.sweeps) // 4:
            kinds.append("cancelling")
        number = self.dice.randrange(len(self.sweeps) + 1)
        match min(kinds, key=lambda each: (self.kills[each], self.dice.random())):
            case "claiming":
                self.claim(IDEAS[number % len(IDEAS)], self.dice.choice(AGENTS), dies=True)
            case "sweeping":
                self.sweep(f"sweep-number-{number}", dies=True)
            case "cancelling":
                self.cancel(dies=True)
            case "training":
                with suppress(OSError, ValueError):
                    lock = self.harness.state / "runs" / training[0].id / str(training[0].attempt) / "launcher.lock"
                    os.kill(int(lock.read_text("ascii")), signal.SIGKILL)
                    self.kills["training"] += 1
            case _:
                self.runner.kill()
                self.runner.wait()
                self.kills["runner"] += 1

    def ask_again(self) -> None:
        """Repeat what was asked and perhaps not acknowledged, as an agent does: it may have been done all the same."""
        for key in sorted(self.asked):
            self.sweep(key, dies=False)
        for text, agents in self.askers.items():
            for agent in sorted(agents):
                self.claim(text, agent, dies=False)

    async def poll(self) -> None:
        """Ask a server, a new one each time, for the task of each sweep: none is forgotten, and one that was completed stays so."""
        async with Client(build_server(self.harness.lab), extensions=[TaskTaker()]) as client:
            for id in self.sweeps.values():
                task = await ask(client, "tasks/get", str(Handle("sweep", "all", int(time.time()) - 86_400, (id,))))
                assert task["status"] in ("working", "completed") and (
                    self.answered.get(id) != "completed" or task["status"] == "completed"
                )
                self.answered[id] = task["status"]
                if task["status"] == "completed":
                    assert task["result"]["structuredContent"]["sweep"]["id"] == id

    def finish(self) -> None:
        """Let the last runner end what is open."""

        def done() -> bool:
            if self.runner.poll() is not None and (self.harness.ledger.open_sweeps() or self.harness.ledger.open_experiments(limit=1)):
                self.runner = process("run", str(self.harness.root), "0.2")
            return self.runner.poll() is not None

        until(done, timeout_s=300)


def test_kills_around_claims_sweeps_and_tasks_lose_and_double_nothing(
    make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "ensure_runner", lambda root, state: True)  # runners are started here
    harness = LabHarness(make_lab("swarming", {"slots = 0": "slots = 2", "[training]\n": "[swarm]\nclaims = 1000\n\n[training]\n"}))
    slaughter = Slaughter(harness)
    try:
        while sum(slaughter.kills.values()) < KILLS:
            if not harness.ledger.open_sweeps():
                slaughter.sweep(f"sweep-number-{len(slaughter.sweeps)}", dies=False)
            slaughter.kill_one()
            anyio.run(slaughter.poll)
        slaughter.ask_again()
        slaughter.finish()
    finally:
        slaughter.runner.kill()
        slaughter.runner.wait()
    anyio.run(slaughter.poll)
    print(f"\nseed {SEED}: killed {dict(slaughter.kills)}; {len(slaughter.sweeps)} sweeps, {len(slaughter.claims)} ideas claimed")
    check_claims(slaughter)
    check_sweeps(slaughter)
    assert set(slaughter.answered.values()) == {"completed"}
    harness.close()


def check_claims(slaughter: Slaughter) -> None:
    """Each text is one idea with one holder, whoever asked for it when, and whoever was told so holds it."""
    claims = {claim.idea: claim.holder for claim in slaughter.harness.ledger.claims()}
    with runner_lock(slaughter.harness.state):
        ideas = slaughter.harness.lab.search_memory(kind="idea", limit=1_000).memories
    assert len({idea.text for idea in ideas}) == len(ideas)
    for text, answers in slaughter.claims.items():
        ((id, holders),) = {id: {holder for each, holder in answers if each == id} - {"another"} for id, _ in answers}.items()
        assert holders == {claims[id]}, text


def check_sweeps(slaughter: Slaughter) -> None:
    """Each trial is there once, with its experiment, which ended once; nothing but trials was trained for a sweep."""
    ledger = slaughter.harness.ledger
    for key, id in slaughter.sweeps.items():
        sweep, trials = ledger.sweep(id), ledger.trials(id)
        assert sweep is not None and sweep.state == ("cancelled" if id in slaughter.cancelled else sweep.state) and sweep.state != "open", (
            key
        )
        assert [trial.number for trial in trials] == list(range(len(trials))) and len({str(trial.values) for trial in trials}) == len(
            trials
        )
        assert len(trials) == TRIALS or sweep.state != "done"
    experiments = [trial.experiment for id in slaughter.sweeps.values() for trial in ledger.trials(id) if trial.experiment]
    starts = Counter(start.experiment for start in ledger.starts(10**6) if not start.by_lab)
    ended = ledger.ended(experiments)
    assert set(starts) <= set(experiments) == set(ended) and len(experiments) == len(set(experiments))
    assert max(Counter(row["commit"] for row in ended.values()).values(), default=1) == 1
    assert ledger.open_experiments() == [] and slaughter.harness.lab.status().budget.reserved_s == 0
    assert not any(row["state"] == "finished" and count > 2 for id, count in starts.items() for row in [ended[id]])
