"""`python -m tests.standins.modal.runner LAB`: the lab's runner, with sandboxes that train nothing. To be killed at any instant.

With a command after LAB, sandboxes run that, and the runner keeps the product's own pace.
"""

import sys
from pathlib import Path

from autoresearch_mcp.server import compute
from autoresearch_mcp.server.compute.base import Compute
from autoresearch_mcp.server.compute.modal import context
from autoresearch_mcp.server.compute.modal.backend import ModalCompute
from autoresearch_mcp.server.devices import requests
from autoresearch_mcp.server.paths import StatePaths
from autoresearch_mcp.server.runner import process
from autoresearch_mcp.server.settings import Settings

NOOP = ("python3", "-u", "-m", "tests.standins.modal.noop_remote")


def open_compute(settings: Settings, state: Path, log: Path) -> Compute:
    secret = StatePaths(state).secret if settings.training.heldout == "secret" else None
    if command := tuple(sys.argv[2:]):
        return ModalCompute(settings.training.profile, state, requests(), command, secret=secret)
    backend = ModalCompute(settings.training.profile, state, requests(), NOOP, patience_s=0.2, secret=secret)
    backend.poll_s = 0.05
    context.COMMIT_S = 1.0  # the stand-in's volumes don't lag
    return backend


if __name__ == "__main__":
    compute.open_compute = open_compute
    raise SystemExit(process.main(Path(sys.argv[1])))
