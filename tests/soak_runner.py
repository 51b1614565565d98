"""A lab's runner that trains nothing: what is queued ends after a second with a number drawn from its seed, and is flushed by the real flusher.

python -m tests.soak_runner ROOT
"""

import contextlib
import random
import sys
import time
from pathlib import Path

import anyio

from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.flushing import Flusher
from autoresearch_mcp.server.runner.lock import runner_lock

AGE_S = 1.0  # of what ends
PAUSE_S = 0.25


async def work(root: Path) -> None:
    """End and flush until this process is killed."""
    state = LabPaths(root).state
    with contextlib.closing(Ledger(state / "ledger.sqlite")) as ledger:
        flusher = Flusher(state, ledger, EmbeddedLake(state / "lake"))
        while True:
            now = time.time()
            for e in ledger.open_experiments("queued"):
                if e.created_at < now - AGE_S and ledger.start(e.id, 1e12) is not None:
                    value = random.Random(e.seed).gauss(1.5, 0.01)
                    ledger.keep_evidence(e.id, "landlock-7+seccomp", value, None)
                    ended = {"val_bpb": value, "conditions": "k", "started_at": now - 1, "finished_at": now, "cost_s": 1.0}
                    ledger.move(e.id, ["starting"], state="finished", **ended)
            await flusher.start_if_due()
            await anyio.sleep(PAUSE_S)


if __name__ == "__main__":
    with runner_lock(LabPaths(Path(sys.argv[1])).state, patience_s=30) as mine:
        assert mine, "another runner is alive"
        print("at work", flush=True)
        anyio.run(work, Path(sys.argv[1]))
