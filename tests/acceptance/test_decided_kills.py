"""Runners, trainings and servers are killed at random around launches until decided: nothing is lost, nothing is doubled.

AUTORESEARCH_KILLS sets how many kills (default 8), AUTORESEARCH_SEED repeats a sequence of them.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from autoresearch_mcp.server.lab import core
from tests.acceptance.deciding_runner import process
from tests.server.harness import LabHarness
from tests.server.runner.test_candidacies import candidacy, propose
from tests.server.runner.test_killed_candidacies import consistent
from tests.waiting import until

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("AUTORESEARCH_KILLS", "8"))
SEED = int(os.environ.get("AUTORESEARCH_SEED", str(random.randrange(10**6))))


class Victims:
    """The processes of a lab, and the dice that choose whom to kill."""

    def __init__(self, harness: LabHarness) -> None:
        self.harness = harness
        self.dice = random.Random(SEED)
        self.kills: Counter[str] = Counter()
        self.runner = process("run", str(harness.root), "0.2")

    def launch(self, commit: str, key: str) -> str:
        """Have a server launch a commit until decided, and kill one before that half of the time; return what it answered."""
        if self.dice.random() < 0.5:
            self._kill_server(commit, key)
        server = process("launch", str(self.harness.root), commit, key)
        out, errors = server.communicate(timeout=300)
        assert server.returncode == 0, errors
        return out.strip()

    def kill_one(self, launched: Sequence[tuple[str, str]]) -> None:
        """Kill a runner, a training or a server at a random instant, the kind that was killed least.

        Args:
            launched: commits and keys that a server was asked to launch before; one that is killed is asked again.
        """
        time.sleep(self.dice.uniform(0.02, 0.6))  # the random instant is the test
        if self.runner.poll() is not None:
            self.runner = process("run", str(self.harness.root), "0.2")
        whom = min(("runner", "training", "server"), key=lambda each: (self.kills[each], self.dice.random()))
        if whom == "runner":
            self._kill_runner()
        elif whom == "server":
            self._kill_server(*self.dice.choice(launched))
        else:
            self._kill_training()

    def _kill_runner(self) -> None:
        self.runner.kill()
        self.runner.wait()
        self.kills["runner"] += 1

    def _kill_server(self, commit: str, key: str) -> None:
        server = process("launch", str(self.harness.root), commit, key)
        with suppress(subprocess.TimeoutExpired):
            server.wait(self.dice.uniform(0.3, 1.2))
        if server.poll() is None:
            server.kill()
            self.kills["server"] += 1
        server.communicate()

    def _kill_training(self) -> None:
        for e in self.harness.ledger.open_experiments("running", "starting"):
            with suppress(OSError, ValueError):
                os.kill(int((self.harness.state / "runs" / e.id / str(e.attempt) / "launcher.lock").read_text("ascii")), signal.SIGKILL)
                self.kills["training"] += 1
                return
        if not self._open():  # nothing will be trained before the next idea
            self._kill_runner()

    def finish(self) -> None:
        """Let the last runner end what is open."""

        def done() -> bool:
            if self.runner.poll() is not None and self._open():
                self.runner = process("run", str(self.harness.root), "0.2")
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
                ids[commit] = victims.launch(commit, f"the-key-{len(ids)}")
            victims.kill_one([(commit, f"the-key-{number}") for number, commit in enumerate(ids)])
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
