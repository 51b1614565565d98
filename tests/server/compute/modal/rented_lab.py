"""A lab on Modal's stand-in whose sandboxes train nothing, with questions about how it ended up."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.models import Experiment, new_id
from autoresearch_mcp.server.proposals.making import NewRepo
from tests.standins.modal.plane import REPOSITORY
from tests.standins.modal.standin import Standin


class RentedLab:
    """No server wakes a runner here: a test starts runners, and kills them."""

    def __init__(self, service: Standin, root: Path) -> None:
        self.service, self.root, self.state = service, root, root / ".autoresearch"
        self.ledger = Ledger(self.state / "ledger.sqlite")
        self.repo = NewRepo(root)
        self._runners: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        """End whatever was started here."""
        for runner in self._runners:
            runner.kill()
            runner.wait()
        self.service.control(away=False, capacity=None, boot_s=0.0, preempt=[c["id"] for c in self.service.running()])
        self.ledger.close()

    def orders(self, text: str) -> str:
        """A commit whose train.py gives `noop_remote` orders."""
        return self.repo.commit_files({"train.py": f"# {text}\n".encode()}, text)

    def enqueue(self, count: int, commit: str, usd: float = 0.01) -> list[str]:
        experiments = [
            Experiment(
                id=new_id("e"), commit=commit, base=commit, author="ada", hypothesis="none", seed=n, device="cpu",
                created_at=time.time() + n * 1e-6, reserved_s=100.0, reserved_usd=usd,
            )
            for n in range(count)
        ]  # fmt: skip
        self.ledger.enqueue(experiments, 1e9, None, "r", 1e9)
        return [e.id for e in experiments]

    def runner(self, *sandbox: str) -> subprocess.Popen[bytes]:
        """A runner process of this lab; `sandbox` is what its sandboxes run instead of `noop_remote`, at the product's own pace."""
        with (self.state / "runner.log").open("ab") as log:
            command = [sys.executable, "-P", "-m", "tests.standins.modal.runner", str(self.root), *sandbox]
            environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
            self._runners.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY, env=environment))
        return self._runners[-1]

    def states(self, ids: list[str]) -> Counter[str]:
        ended = self.ledger.ended(ids)
        open_ = {e.id: e.state for e in self.ledger.open_experiments()}
        return Counter(ended[id]["state"] if id in ended else open_[id] for id in ids)

    def over(self, ids: list[str]) -> bool:
        return len(self.ledger.ended(ids)) == len(ids)

    def attempts(self, ids: list[str]) -> dict[str, int]:
        """How often each of these, which are over, was started."""
        lake = EmbeddedLake(self.state / "lake")
        ended = [self.ledger.experiment(id) for id in ids] + lake.get("experiments", ids)
        lake.close()
        return {e.id: e.attempt for e in ended if isinstance(e, Experiment)}

    def sandboxes(self, id: str) -> list[dict[str, Any]]:
        return self.service.containers(experiment=id)

    def age_bills(self, seconds: float) -> None:
        """As if what has ended had ended so much earlier."""
        with contextlib.closing(sqlite3.connect(self.state / "ledger.sqlite")) as db, db:
            db.execute("UPDATE bills SET at = at - ?", (seconds,))

    @staticmethod
    def out(sandbox: dict[str, Any]) -> Path:
        """A trainer's folder on the runs volume."""
        return Path(sandbox["directory"], "fs/private/out").resolve()

    def runs(self, id: str) -> dict[str, tuple[int, int]]:
        """Attempt -> how often its training began and ended, as its folder on the volume counts them."""
        counted = {}
        for sandbox in self.sandboxes(id):
            out = self.out(sandbox)
            counts = [len(path.read_text().splitlines()) if (path := out / name).exists() else 0 for name in ("starts", "ends")]
            counted[sandbox["tags"]["attempt"]] = (counts[0], counts[1])
        return counted
