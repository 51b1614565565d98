"""A client that goes away in the middle of a call leaves nothing half done."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.runner.lock import runner_lock


def edit(number: int) -> dict[str, Any]:
    edits = [{"path": "train.py", "search": "SOFTCAP = 15.0", "replace": f"SOFTCAP = 15.0 + {number}"}]
    return {"hypothesis": f"a softcap of 15 + {number} is better", "edits": edits}


@pytest.mark.parametrize("end", ["closes its pipe", "SIGTERM", "SIGINT", "SIGKILL"])
def test_a_client_that_leaves_in_the_middle_of_a_call_leaves_nothing_half_done(make_lab: Callable[..., Path], end: str) -> None:
    root = make_lab(end.split()[0])
    command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.cli", "serve", str(root)]
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "mayfly", "version": "1"}}
    messages: list[dict[str, Any]] = [
        {"id": 0, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        *({"id": n, "method": "tools/call", "params": {"name": "propose_patch", "arguments": edit(n)}} for n in range(1, 9)),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for message in messages:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(3)]  # the hello, and two proposals: the others are on their way
        if end == "closes its pipe":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, end))
        lines += process.stdout.readlines()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == (-signal.SIGKILL if end == "SIGKILL" else 0)

    answers = [json.loads(line) for line in lines[1:] if line.endswith(b"\n")]
    acknowledged = [answer["result"]["structuredContent"]["commit"] for answer in answers if "result" in answer]
    assert len(acknowledged) >= 2
    lab = Lab(root)
    with runner_lock(root / ".autoresearch"):
        there = set()
        for n in range(1, 9):  # each was made wholly or not at all, and can be made now
            again = lab.propose_patch(edit(n)["hypothesis"], "test", edits=edit(n)["edits"])
            assert f"SOFTCAP = 15.0 + {n}" in lab.read_file(commit=again.commit).text
            there |= {again.commit[:12]} if again.duplicate else set()
        assert set(acknowledged) <= there
        assert all(lab.launch_training(commit, "test").experiments for commit in acknowledged)
        for line in lab.status().queued:
            lab.cancel("test", [line.id])
    lab.close()
