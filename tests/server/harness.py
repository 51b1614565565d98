"""A lab with its ledger open beside it, and a test that can be its runner."""

import subprocess
import sys
from pathlib import Path

import anyio

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.compute.base import Compute
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import ACTIVE_STATES, Experiment
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner
from tests.waiting import until

NOOP = (sys.executable, str(Path(__file__).parents[1] / "bench" / "noop_launcher.py"))


class LabHarness:
    """A lab with its ledger open beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / ".autoresearch"
        self.lab = Lab(root)
        self.ledger = Ledger(self.state / "ledger.sqlite")

    def close(self) -> None:
        self.lab.close()
        self.ledger.close()

    def launch(self, replicates: int = 1) -> list[str]:
        return self.lab.launch_training("champion", "ada", replicates).experiments

    def state_of(self, id: str) -> str:
        return self.lab.states([id])[0].state

    def ended(self, ids: list[str]) -> bool:
        return all(line.state not in (*ACTIVE_STATES, "queued") for line in self.lab.states(ids))

    def record(self, id: str) -> Experiment:
        """The whole record of an experiment that is still in the ledger."""
        record = self.ledger.experiment(id)
        assert record is not None
        return record

    def launcher(self, id: str) -> int:
        """The process that supervises an experiment, once it is there."""
        attempt = until(lambda: next((e.attempt for e in self.ledger.open_experiments(*ACTIVE_STATES) if e.id == id), 0))
        lock = self.state / "runs" / id / str(attempt) / "launcher.lock"
        return int(until(lambda: lock.read_text(encoding="ascii") if lock.exists() else ""))

    def runner(self) -> int:
        return int(until(lambda: (self.state / "runner.lock").read_text(encoding="ascii")))

    def drive(
        self,
        linger_s: float = 0.0,
        command: tuple[str, ...] = NOOP,
        lake: EmbeddedLake | None = None,
        compute: Compute | None = None,
    ) -> None:
        """Be the runner, in this process, with a launcher that trains nothing, until there is nothing left to do."""
        settings = lab_settings.load(self.root)
        lake = lake or EmbeddedLake(self.state / "lake")
        local = LocalCompute("tiny", 1, self.state / "runner.log", command=command, secret=self.state / "heldout.secret")
        with runner_lock(self.state, patience_s=5) as mine:
            assert mine
            anyio.run(Runner(settings, self.state, self.ledger, Repo(self.root), lake, compute or local).run, linger_s)
        lake.close()

    def git(self, *args: str) -> str:
        return subprocess.run(["git", "-C", str(self.root), *args], capture_output=True, text=True, check=True).stdout.strip()
