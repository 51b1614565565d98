"""`python -m tests.standins.modal.runner LAB`: the lab's runner, with sandboxes that train nothing. To be killed at any instant.

With a command after LAB, sandboxes run that, and the runner keeps the product's own pace.
"""

import sys
from pathlib import Path

import server.compute
from server import daemon
from server.compute import modal_keeper
from server.compute.base import Compute
from server.compute.gpus import requests
from server.compute.modal import ModalCompute
from server.settings import Settings

NOOP = ("python3", "-u", "-m", "tests.standins.modal.noop_remote")


def open_compute(settings: Settings, state: Path, log: Path) -> Compute:
    if command := tuple(sys.argv[2:]):
        return ModalCompute(settings.training.profile, state, requests(), command)
    compute = ModalCompute(settings.training.profile, state, requests(), NOOP, patience_s=0.2)
    compute.poll_s = 0.05
    modal_keeper.COMMIT_S = 1.0  # the stand-in's volumes don't lag
    return compute


if __name__ == "__main__":
    server.compute.open_compute = open_compute
    raise SystemExit(daemon.main(Path(sys.argv[1])))
