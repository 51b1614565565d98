"""Runners, trainings and servers are killed at random around launches until decided: nothing is lost, nothing is doubled.

AUTORESEARCH_KILLS sets how many kills (default 20), AUTORESEARCH_SEED repeats a sequence of them.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab import core
from tests.server.harness import LabHarness
from tests.server.runner.test_candidacies import candidacy, propose
from tests.server.runner.test_killed_candidacies import consistent
from tests.waiting import until

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("AUTORESEARCH_KILLS", "20"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))
HERE = Path(__file__).parents[2]


def process(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.acceptance.deciding_runner", *arguments]
    return subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE if arguments[0] == "launch" else subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )


class Victims:
    """The processes of a lab, and the dice that choose whom to kill."""

    def __init__(self, harness: LabHarness) -> None:
        self.harness = harness
        self.dice = random.Random(SEED)
        self.kills: Counter[str] = Counter()
        self.runner = process("run", str(harness.root), "0.05")

    def launch_until_answered(self, commit: str, key: str) -> str:
        """Have a server launch a commit until decided, killed half of the time, and repeat that until it answered."""
        while True:
            server = process("launch", str(self.harness.root), commit, key)
            if self.dice.random() < 0.5:
                with suppress(subprocess.TimeoutExpired):
                    server.wait(self.dice.uniform(0.3, 1.2))
                if server.poll() is None:
                    server.kill()
                    self.kills["server"] += 1
            out, _ = server.communicate()
            if out.strip():
                return out.strip()

    def kill_one(self) -> None:
        """Kill the runner or a training at a random instant; a runner that ended or was killed has a successor."""
        time.sleep(self.dice.uniform(0.02, 0.6))  # the random instant is the test
        if self.runner.poll() is not None:
            self.runner = process("run", str(self.harness.root), "0.05")
        elif self.dice.random() < 0.6:
            self.runner.kill()
            self.runner.wait()
            self.kills["runner"] += 1
        else:
            self._kill_training()

    def _kill_training(self) -> None:
        for e in self.harness.ledger.open_experiments("running", "starting"):
            with suppress(OSError, ValueError):
                os.kill(int((self.harness.state / "runs" / e.id / str(e.attempt) / "launcher.lock").read_text("ascii")), signal.SIGKILL)
                self.kills["training"] += 1
                return

    def finish(self) -> None:
        """Let the last runner end what is open."""

        def done() -> bool:
            if self.runner.poll() is not None and self._open():
                self.runner = process("run", str(self.harness.root), "0.05")
            return self.runner.poll() is not None

        until(done, timeout_s=300)

    def _open(self) -> bool:
        return bool(self.harness.ledger.open_experiments(limit=1) or self.harness.ledger.open_candidacies())


def test_kills_around_launches_until_decided_lose_and_double_nothing(
    make_lab: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "ensure_runner", lambda root, state: True)  # runners are started here
    harness = LabHarness(make_lab("slaughtered", {"slots = 0": "slots = 2"}))
    victims, ids = Victims(harness), dict[str, str]()
    try:
        while sum(victims.kills.values()) < KILLS:
            if len(ids) < 1 + sum(victims.kills.values()) // 8:  # a new idea from time to time
                commit = propose(harness, len(ids) + 1, gain=random.Random(f"{SEED} {len(ids)}").choice([0, 10, 30]))
                ids[commit] = victims.launch_until_answered(commit, f"the-key-{len(ids)}")
            victims.kill_one()
        victims.finish()
    finally:
        victims.runner.kill()
        victims.runner.wait()
    print(f"\nseed {SEED}: killed {dict(victims.kills)}; {len(ids)} launches until decided, {len(harness.ledger.starts(10**6))} starts")
    for number, (commit, id) in enumerate(ids.items()):
        again = harness.lab.launch_until_decided(commit, "ada", idempotency_key=f"the-key-{number}")
        assert again.repeated and again.until_decided == id
        assert candidacy(harness, id).commit == commit
    consistent(harness, *ids.values())
    starts = Counter(each.experiment for each in harness.ledger.starts(10**6))
    ended = harness.ledger.ended(list(starts))
    assert set(ended) == set(starts)
    whose = Counter(row["candidacy"] or ("champion" if row["by_lab"] else "nobody") for row in ended.values())
    assert set(whose) <= {*ids.values(), "champion"}
    harness.close()
