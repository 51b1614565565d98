"""Part 5 of the check: what the sandbox lets through with CUDA on, what memory shows, and whether anything outlives a run."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

from autoresearch_mcp.trainer import protocol, sandbox
from autoresearch_mcp.trainer.gpu_check import machine, variants
from autoresearch_mcp.trainer.gpu_check.machine import CheckError
from autoresearch_mcp.trainer.gpu_check.parts import Check
from autoresearch_mcp.trainer.gpu_check.report import Part
from autoresearch_mcp.trainer.gpu_check.runs import Run

SIGNALS = 6  # Landlock's version that refuses signals, see trainer.sandbox.jail
STAGES = ("starting", "running", "scoring")
COMPILING_S = 3.0  # from spawn on; then a training has its context on the card, and the compiler's helpers run
GONE_S = 10.0  # what was killed has so long to go
SLACK_MB = 600.0  # by which the card's memory may differ from before: contexts of others come and go
MARK_MB = {"cuda": 4096, "cpu": 64}
LOOK_MB = {"cuda": 1 << 20, "cpu": 256}  # on a GPU, all there is


def isolation(check: Check, part: Part) -> None:
    """Try the sandbox from inside, look for a dead process's memory, and kill launchers at each stage (part 5)."""
    _inside(check, part)
    _memory(check, part)
    _kills(check, part)


def _inside(check: Check, part: Part) -> None:
    forbidden = check.work / "forbidden"
    forbidden.mkdir(exist_ok=True)
    run = check.launches.start("inside", variants.from_inside(check.data, forbidden), check.budget_s(3, 3))
    result = run.wait()
    line = next((line for line in run.log.splitlines() if line.startswith(variants.INSIDE)), None)
    if line is None:
        failure = result.get("failure") or {}
        raise CheckError(f"code in the sandbox could not say what it may do: {failure.get('message', result['state'])}")
    told = json.loads(line.removeprefix(variants.INSIDE))
    could = told["could"]
    needed = could.pop("what a training needs")
    part.judge(f"nothing that a training needs is refused: {needed}", needed == "yes" and result["state"] == "finished")
    level = sandbox.level()
    if 0 < sandbox.abi() < SIGNALS and not sandbox.separate_users():
        part.words.append(f"signals to its launcher: {could.pop('signal its launcher')}; Landlock refuses them from Linux 6.12 on")
    allowed = sorted(name for name, answer in could.items() if answer == "yes")
    if level == "unsandboxed":
        part.judge("what a training must not do is refused: this machine has no sandbox", None)
    else:
        claim = f"refused ({level}): {', '.join(sorted(could.keys() - set(allowed)))}"
        part.judge(claim + (f"; ALLOWED: {', '.join(allowed)}" if allowed else ""), not allowed)
    part.numbers["driver_files"] = len([path for path in told["devices"] if "nvidia" in path])
    part.words.append(f"device files in use: {', '.join(told['devices']) or 'none'}")


def _memory(check: Check, part: Part) -> None:
    found = machine.probe("marks", check.kind, str(MARK_MB[check.kind]), str(LOOK_MB[check.kind]))
    if not found["left"]:
        raise CheckError("no mark could be left in memory, so none can be looked for.")
    part.numbers["marks"] = found["marks"]
    part.judge(f"memory of a dead process can't be read: {found['marks']} words of it in {found['looked_mb']} MB", found["marks"] == 0)


def _kills(check: Check, part: Part) -> None:
    before_mb = machine.card_memory_mb() if check.real else None
    slowest_s = 0.0
    ways = [(stage, signal.SIGKILL) for stage in (STAGES[1:] if check.quick and check.real else STAGES)]
    left = list[str]()
    for stage, way in [*ways, ("running", signal.SIGTERM)]:
        budget_s = 0.5 if stage == "scoring" and not check.real else 2.0 if stage == "scoring" else 30.0
        run = check.launches.start(f"kill-{stage}", variants.stock(), budget_s)
        run.reach(stage)
        if stage == "starting" and check.real:
            time.sleep(COMPILING_S)
        members = run.members()
        if way == signal.SIGTERM:
            (run.directory / protocol.CANCEL).touch()
        began = time.monotonic()
        os.kill(run.pid, way)
        survivors = _wait_for_exit(run, members)
        slowest_s = max(slowest_s, time.monotonic() - began)
        if survivors:
            left.append(f"{len(survivors)} while {stage}")
            for pid in survivors:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if way == signal.SIGTERM:
            state = (protocol.read_json(run.directory / protocol.RESULT) or {}).get("state")
            part.judge(f"a run that is cancelled says so: {state}", state == "cancelled")
    part.numbers["kill_s"] = slowest_s
    stages = ", ".join(stage for stage, _ in ways)
    part.judge(f"no process outlives its launcher, killed while {stages}: {'; '.join(left) or 'none left'}", not left)
    if before_mb is not None:
        after_mb = _settled(before_mb)
        part.judge(f"the card's memory is free again: {before_mb:.0f} MB before, {after_mb:.0f} MB after", after_mb <= before_mb + SLACK_MB)
    elif check.real:
        part.judge("the card's memory is free again: nvidia-smi doesn't tell", None)


def _wait_for_exit(run: Run, members: set[int]) -> set[int]:
    """Wait until a killed run's processes are gone.

    Returns:
        Those that are not.
    """
    deadline = time.monotonic() + GONE_S
    while True:
        left = {pid for pid in members | run.members() if _lives(pid)}
        if (not left and not run.alive) or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    """Return whether a process lives; one that is dead and not yet collected doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (OSError, IndexError):
        return False


def _settled(before_mb: float) -> float:
    """Return the card's memory in use, once it is back or the time is over."""
    deadline = time.monotonic() + GONE_S
    while (used := machine.card_memory_mb()) is not None and used > before_mb + SLACK_MB and time.monotonic() < deadline:
        time.sleep(0.2)
    return used if used is not None else before_mb
