"""From a finished edit to a verified number: calls and characters of an agent in a work tree, beside the plain loop's own."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client

from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.lab.lab import Lab
from autoresearch_mcp.server.paths import LabPaths
from autoresearch_mcp.server.runner.lock import stop_runner
from autoresearch_mcp.trainer import protocol
from tests.bench.servers import ours

TIMES = 5
IDEA = "A wider model has more room to learn in, and the batch stays."
# What the plain loop sends and reads for one experiment, by its own instructions: `git commit`, run, and grep of two numbers
PLAIN = (
    (f'git commit -am "{IDEA}"', "[research 3f2a91c] 1 file changed, 1 insertion(+), 1 deletion(-)"),
    ("python train.py > run.log 2>&1", ""),
    ('grep "^val_bpb:\\|^peak_memory_mb:" run.log', "val_bpb:          1.285930\npeak_memory_mb:   412.3"),
)


async def _play(root: Path) -> tuple[int, int, int, list[float]]:
    """Return the most calls, characters sent and read for one experiment, and the seconds from each result to its answer."""
    folder = root.with_name(f"{root.name}-ada")
    lab = Lab(root)
    branch = lab.check_out("champion", folder, "ada")
    train = (folder / "train.py").read_text("utf-8")
    totals, late = [], []
    async with Client(ours(root)) as client:
        for n in range(TIMES):
            (folder / "train.py").write_text(train.replace("MATRIX_LR = 0.04", f"MATRIX_LR = 0.0{41 + n}"), "utf-8")
            await anyio.run_process(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", IDEA], cwd=folder)
            calls = sent = read = 0
            tool, arguments = "propose_patch", {"ref": branch, "launch": 1, "wait_s": 45, "author": "ada"}
            while True:
                result: Any = await client.call_tool(tool, arguments)
                answered = time.time()
                calls, sent, read = (
                    calls + 1,
                    sent + len(tool) + len(json.dumps(arguments)),
                    read + sum(len(each.text) for each in result.content),
                )
                line = (result.structured_content.get("launched") or result.structured_content.get("experiments"))[0]
                if line["state"] not in ("queued", "starting", "running", "scoring"):
                    break
                tool, arguments = "wait_for_experiments", {"ids": [line["id"]], "timeout_s": 45}
            totals.append((calls, sent, read))
            late.append(answered - (LabPaths(root).run(line["id"], 1) / protocol.RESULT).stat().st_mtime)
    lab.close()
    most = [max(each[n] for each in totals) for n in range(3)]
    return most[0], most[1], most[2], late


def measure(scratch: Path) -> list[tuple[str, str, str, str, str]]:
    """Return the rows."""
    root = scratch / "two-calls"
    create_lab(root, profile="tiny")
    calls, sent, read, late = anyio.run(_play, root)
    stop_runner(LabPaths(root).state)
    plain = len(PLAIN), sum(len(each) for each, _ in PLAIN), sum(len(each) for _, each in PLAIN)
    return [
        ("calls from an edit to its number", str(calls), f"{plain[0]} (plain loop)", f"{calls / plain[0]:.2f}", ""),
        ("characters sent, of 600", str(sent), f"{plain[1]} (plain loop)", f"{sent / 600:.2f}", "1"),
        ("characters read, of 900", str(read), f"{plain[2]} (plain loop)", f"{read / 900:.2f}", "1"),
        ("from a result to its answer", f"{statistics.median(late):.2f} s", "0.5 s", f"{statistics.median(late) / 0.5:.2f}", "1"),
    ]
