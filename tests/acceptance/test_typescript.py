"""Clients that we didn't write: those of both TypeScript SDKs. `make client-test` fetches them (npm); without them these tests are skipped."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.contracts import TOOLS
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import runner_lock
from tests.server.mcp.listening import served_over_http

HERE = Path(__file__).parents[2]
NODE = HERE / ".node"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules" / "@modelcontextprotocol" / "client").is_dir(),
    reason="needs node and the TypeScript SDKs, which npm has: `make client-test` fetches them and runs this",
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Path]:
    create_lab(tmp_path / "lab", profile="tiny", budget_s=1.0)
    with runner_lock(LabPaths(tmp_path / "lab").state):  # so nothing is trained
        yield tmp_path / "lab"


def drive(*arguments: str) -> dict[str, Any]:
    script = str(Path(__file__).with_name("typescript.mjs"))
    environment = os.environ | {"NODE_FOLDER": str(NODE), "PYTHONPATH": str(HERE)}
    ran = subprocess.run(["node", script, *arguments], env=environment, capture_output=True, text=True, timeout=90)
    assert ran.returncode == 0, ran.stderr
    answers: dict[str, Any] = json.loads(ran.stdout)
    return answers


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("sdk", ["1", "2"])
def test_the_typescript_sdk_lists_and_calls_everything(lab: Path, sdk: str, transport: str) -> None:
    if transport == "stdio":
        # The SDK gives a server a few variables of the environment only, so the module's place is said here.
        start = "import sys; from autoresearch_mcp.server.cli import main; sys.exit(main())"
        answers = drive(sdk, "stdio", sys.executable, "-c", start, "serve", str(lab))
    else:
        with served_over_http(lab) as server:
            answers = drive(sdk, "http", server.url)
    assert answers["server"] == "autoresearch" and set(answers["tools"]) == set(TOOLS)
    assert answers["prompts"] == ["orchestrator", "worker"] and "lab://status" in answers["resources"]
    assert sdk == "1" or answers["protocol"] == "2026-07-28"
    assert answers["proposed"]["author"] == "typescript" and not answers["proposed"]["duplicate"]
    assert not answers["waited"]["done"] and answers["waited"]["experiments"][0]["state"] == "queued" and answers["progress"] >= 1
    assert answers["picture"] == "image/png"
    assert answers["refused"][0] and "no argument `verbose`" in answers["refused"][1]
    assert "Your name (pass it as `author`): typescript" in answers["prompt"]
    assert answers["status"]["counts"] == {"queued": 1}
