"""The handle of a stand-in that runs as a process of its own, so that it survives whoever it serves."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.standins.modal.plane import REPOSITORY, USD_S


@dataclass(frozen=True)
class Standin:
    """Attributes:
    environment: what a process needs to take the stand-in for Modal.
    """

    USD_S = USD_S
    environment: dict[str, str]
    url: str

    def control(self, **orders: Any) -> dict[str, Any]:
        """Set `away`, `capacity`, `boot_s`; `preempt` containers by id; answers what there is and what was called."""
        request = urllib.request.Request(self.url, json.dumps(orders).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            state: dict[str, Any] = json.loads(answer.read())
        return state

    def containers(self, **tags: str) -> list[dict[str, Any]]:
        """Sandboxes with these tags, oldest first."""
        return [c for c in self.control()["containers"] if tags.items() <= c["tags"].items()]

    def running(self, **tags: str) -> list[dict[str, Any]]:
        return [c for c in self.containers(**tags) if c["running"]]


@contextmanager
def standin(root: Path) -> Iterator[Standin]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.standins.modal", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env={k: v for k, v in os.environ.items() if not k.startswith("MODAL_")},
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        where = json.loads(process.stdout.readline())
        environment = {
            "MODAL_SERVER_URL": where["server"],
            "MODAL_TOKEN_ID": "ak-standin",
            "MODAL_TOKEN_SECRET": "as-standin",
            "MODAL_CONFIG_PATH": os.devnull,
        }
        yield Standin(environment, where["control"])
    process.wait(timeout=120)
