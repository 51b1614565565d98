"""A lab's runner as a process, with a launcher that draws its metrics; or a server that does one thing for an agent, and prints what it acknowledges.

python -m tests.acceptance.deciding_runner run ROOT SECONDS
python -m tests.acceptance.deciding_runner launch ROOT COMMIT KEY
python -m tests.acceptance.deciding_runner claim ROOT AGENT TEXT
python -m tests.acceptance.deciding_runner sweep ROOT KEY VALUE...
python -m tests.acceptance.deciding_runner cancel ROOT SWEEP
"""

import subprocess
import sys
from pathlib import Path

import anyio

from autoresearch_mcp.server import settings as lab_settings
from autoresearch_mcp.server.answers import Range
from autoresearch_mcp.server.compute.local.backend import LocalCompute
from autoresearch_mcp.server.lab import core
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.lake.embedded.store import EmbeddedLake
from autoresearch_mcp.server.ledger import Ledger
from autoresearch_mcp.server.proposals.repo import Repo
from autoresearch_mcp.server.runner.lock import runner_lock
from autoresearch_mcp.server.runner.loop import Runner

HERE = Path(__file__).parents[2]
DRAWING = HERE / "tests" / "bench" / "drawing_launcher.py"


def process(*arguments: str) -> "subprocess.Popen[str]":
    """Start one of these as a process; what a server prints is kept."""
    command = [sys.executable, "-m", "tests.acceptance.deciding_runner", *arguments]
    kept = subprocess.DEVNULL if arguments[0] == "run" else subprocess.PIPE
    return subprocess.Popen(command, cwd=HERE, stdout=kept, stderr=kept, text=True)


def run(root: Path, seconds: str, linger_s: float = 0.0) -> None:
    state = root / ".autoresearch"
    settings, lake = lab_settings.load(root), EmbeddedLake(state / "lake")
    compute = LocalCompute("tiny", 1, state / "runner.log", command=(sys.executable, str(DRAWING), seconds, "0.5"))
    with runner_lock(state, patience_s=30) as mine:
        assert mine, "another runner is alive"
        anyio.run(Runner(settings, state, Ledger(state / "ledger.sqlite"), Repo(root), lake, compute).run, linger_s)


def launch(root: Path, commit: str, key: str) -> None:
    print(Lab(root).launch_until_decided(commit, "ada", idempotency_key=key).until_decided, flush=True)


def claim(root: Path, agent: str, text: str) -> None:
    """Print the idea's id and its holder."""
    answer = Lab(root).claim_idea(agent, text=text)
    print(answer.id, agent if answer.claimed else "another", flush=True)


def sweep(root: Path, key: str, *values: str) -> None:
    over = {"UNEMBEDDING_LR": Range(choices=list(values))}
    print(Lab(root).launch_sweep("champion", "ada", over, len(values), 2, key, "grid").id, flush=True)


def cancel(root: Path, id: str) -> None:
    print(Lab(root).cancel("ada", [id]).states.get(id, "ended"), flush=True)


if __name__ == "__main__":
    if sys.argv[1] != "run":
        core.ensure_runner = lambda root, state: True  # the test starts the runner
    {"run": run, "launch": launch, "claim": claim, "sweep": sweep, "cancel": cancel}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
