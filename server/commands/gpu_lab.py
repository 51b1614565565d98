"""Drives a fresh lab over MCP for the check of a GPU: a baseline, a known gain that is promoted, a known loss that is refused.

`python -m autoresearch_mcp.server.commands.gpu_lab FOLDER PROFILE ATTENTION BUDGET_S` answers with one line of JSON. It is no command of
the command line: `autoresearch_mcp.trainer.gpu_check` starts it, because the trainer's side imports nothing of the server.
"""

import argparse
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console

from autoresearch_mcp.server.commands.demo_agents import DemoFailure, Idea, LiveConsole, agent
from autoresearch_mcp.server.commands.init import create_lab
from autoresearch_mcp.server.errors import LabError
from autoresearch_mcp.server.gate.boundary import N_MIN
from autoresearch_mcp.server.gate.rule import M_FIRST
from autoresearch_mcp.server.paths import SETTINGS, STATE, LabPaths
from autoresearch_mcp.server.runner.lock import stop_runner
from autoresearch_mcp.trainer import files, protocol
from autoresearch_mcp.trainer.compile_cache import STOCK

# The lab starts from larger steps. At budgets of seconds fewer steps are what costs most, so the stock batch is a gain.
BATCH = {
    "h100": ("    BATCH_TOKENS = 2**19", "    BATCH_TOKENS = 2**21"),
    "gpu": ("    BATCH_TOKENS, DEVICE_ROWS = 2**16, 16", "    BATCH_TOKENS, DEVICE_ROWS = 2**18, 16"),
    "tiny": ("BATCH_TOKENS = 1024 ", "BATCH_TOKENS = 8192 "),
}
SLOTS = {"h100": 1, "gpu": 1, "tiny": 2}
LOOK_S = 0.5
LOSS = Idea("An output layer that hardly learns", "UNEMBEDDING_LR = 0.004 ", "UNEMBEDDING_LR = 0.000004 ")


async def _drive(root: Path, profile: str) -> dict[str, Any]:
    stock, slow = BATCH[profile]
    verdicts = dict[str, dict[str, Any]]()
    with LiveConsole(Console(file=io.StringIO())) as screen:
        async with agent("gpu-check", root, screen) as boss:

            async def decide(name: str, idea: Idea) -> None:
                verdicts[name] = await boss.decide(await boss.propose(idea))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(decide, "gain", Idea("Smaller steps, and more of them", slow, stock))
                # Beside so many replicates of the champion one of a loss decides
                while "gain" not in verdicts and (await boss.call("get_status"))["champion"]["n"] < M_FIRST:  # noqa: ASYNC110
                    await anyio.sleep(LOOK_S)
                await decide("loss", LOSS)
            rows = (await boss.call("query_experiments", columns=["id", "state"], limit=100))["rows"]
            full = [await boss.call("get_experiment", id=row["id"], include=["versions"]) for row in rows]
    return {
        "promoted": verdicts["gain"]["promoted"],
        "gain": verdicts["gain"]["verdict"]["reason"],
        "refused": not verdicts["loss"]["promoted"],
        "loss": verdicts["loss"]["verdict"]["reason"],
        "trained_s": sum(_trained_s(experiment) for experiment in full),
        "words": [f"{len(full)} trainings, of which {sum(row['state'] == 'finished' for row in rows)} finished"],
    }


def _stop(root: Path) -> None:
    """Leave nothing of the lab running: no runner that would start what is queued, and no training."""
    if not (paths := LabPaths(root)).state.is_dir():
        return
    stop_runner(paths.state)
    for launcher in root.glob(f"{STATE}/runs/*/*/{protocol.LOCK}"):
        with contextlib.suppress(OSError, ValueError), launcher.open("r+b") as lock:
            if not files.try_process_lock(lock):
                (launcher.parent / protocol.CANCEL).touch()
                os.kill(int(launcher.read_text(encoding="ascii")), signal.SIGTERM)


def _trained_s(experiment: dict[str, Any]) -> float:
    return float((experiment.get("details") or {}).get("timings", {}).get("train_s", 0.0))


def _write_repository(folder: Path, stock: str, slow: str) -> None:
    """Make a repository whose train.py takes few, large steps."""
    code = STOCK.read_text(encoding="utf-8")
    if code.count(stock) != 1:
        raise DemoFailure(f"the stock train.py no longer holds the line {stock.strip()!r} once: adapt server/commands/gpu_lab.py")
    (folder / "train.py").write_text(code.replace(stock, slow), encoding="utf-8")
    who = ["-c", "user.name=gpu-check", "-c", "user.email=gpu-check@localhost"]
    for command in (["init", "-q"], ["add", "train.py"], [*who, "commit", "-q", "-m", "Larger steps, and fewer of them"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True, stdout=subprocess.DEVNULL)


def _set_up(root: Path, profile: str, attention: str) -> None:
    """Set how the lab trains and decides: by as few replicates as the gate takes.

    Trainings count that this machine can't confine: the lab is thrown away.
    """
    path = root / SETTINGS
    text = path.read_text(encoding="utf-8").replace("[training]\n", f'[training]\nattention = "{attention}"\n', 1)
    text = re.sub(r"^slots = 0 ", f"slots = {SLOTS[profile]} ", text, flags=re.MULTILINE)
    text = re.sub(r"^max_replicates = 16 ", f"max_replicates = {N_MIN} ", text, flags=re.MULTILINE)
    path.write_text(text.replace('unsandboxed = "refuse"', 'unsandboxed = "allow"'), encoding="utf-8")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m autoresearch_mcp.server.commands.gpu_lab")
    parser.add_argument("folder", type=Path)
    parser.add_argument("profile", choices=BATCH)
    parser.add_argument("attention")
    parser.add_argument("budget_s", type=float)
    arguments = parser.parse_args()
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # the check ends it so: it tidies up either way
    try:
        with tempfile.TemporaryDirectory() as source:
            _write_repository(Path(source), *BATCH[arguments.profile])
            create_lab(arguments.folder, Path(source), arguments.profile, arguments.budget_s)
        _set_up(arguments.folder, arguments.profile, arguments.attention)
        answer = anyio.run(_drive, arguments.folder, arguments.profile)
        seconds = time.monotonic() - began
    except (DemoFailure, LabError) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    except BaseExceptionGroup as error:
        sys.stdout.write(f"{error.exceptions[0]}\n")
        return 1
    finally:
        _stop(arguments.folder)
    sys.stdout.write(json.dumps({**answer, "seconds": seconds, "slots": SLOTS[arguments.profile]}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
