"""Part 6 of the check: a lab over MCP on this device, driven by a process of the server's. Skipped where its packages are missing."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from autoresearch_mcp.trainer import device, prepare
from autoresearch_mcp.trainer.gpu_check.machine import CheckError
from autoresearch_mcp.trainer.gpu_check.parts import Check
from autoresearch_mcp.trainer.gpu_check.report import Part

PACKAGES = ("mcp", "pydantic", "deeplake", "git", "rich", "sqlglot", "starlette", "tenacity", "uvicorn", "matplotlib", "anyio")
LIMIT_S = {"cuda": 420.0, "cpu": 600.0}
END_S = 20.0


class Skipped(Exception):
    """A part can't be done here; the text says why."""


def lab(check: Check, part: Part) -> None:
    """Drive a lab over MCP: baseline, a gain that is promoted, a loss that is refused (part 6).

    Raises:
        Skipped: the server's packages are missing.
        CheckError: the lab didn't do what it must.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise Skipped(f"the server's packages are missing: {', '.join(missing)}. `pip install autoresearch-mcp` brings them.")
    folder = check.work / "lab"
    shutil.rmtree(folder, ignore_errors=True)
    cache = check.work / "cache"
    profile = "h100" if check.real else "tiny"
    _lend_data(check, cache, profile)
    environment = {**os.environ, "AUTORESEARCH_CACHE": str(cache)}
    kernels = device.kernels_dir(check.data.parent)
    attention = "fa3" if (kernels / device.FLASH_LINK).exists() else "sdpa"
    command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.commands.gpu_lab", str(folder), profile, attention]
    command += [str(check.budget_s(10, 6) if check.real else 0.6)]
    limit_s = LIMIT_S[check.kind]
    with (
        (check.work / "lab.log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, encoding="utf-8") as driver,
    ):
        try:
            out, _ = driver.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise CheckError(f"the lab took longer than {limit_s:.0f} s; {check.work}/lab.log and {folder} are kept.") from None
        finally:
            if driver.poll() is None:  # it stops the lab's runner and trainings before it goes
                driver.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    driver.communicate(timeout=END_S)
                driver.kill()
    lines = out.strip().splitlines()
    if driver.returncode != 0 or not lines:
        raise CheckError(f"the lab failed: {lines[-1] if lines else f'see {check.work}/lab.log'}")
    answer = json.loads(lines[-1])
    part.numbers |= {"lab_s": answer["seconds"], "slot_share": 100 * answer["trained_s"] / answer["seconds"] / answer["slots"]}
    part.words += answer["words"]
    part.judge("the known gain is promoted" + (f": {answer['gain']}" if answer["gain"] else ""), answer["promoted"])
    part.judge("the known loss is refused" + (f": {answer['loss']}" if answer["loss"] else ""), answer["refused"])


def _lend_data(check: Check, cache: Path, profile: str) -> None:
    """Put the check's data where the lab's trainer looks for it."""
    if not check.real:
        return  # the lab's profile is another one, whose text is a package's
    before = os.environ.get("AUTORESEARCH_CACHE")
    os.environ["AUTORESEARCH_CACHE"] = str(cache)
    try:
        target = prepare.data_dir(profile)
    finally:
        os.environ.pop("AUTORESEARCH_CACHE")
        os.environ |= {} if before is None else {"AUTORESEARCH_CACHE": before}
    target.parent.mkdir(parents=True, exist_ok=True)
    for link, there in ((target, check.data), (cache / "kernels", device.kernels_dir(check.data.parent))):
        if there.exists() and not link.exists():
            link.symlink_to(there.resolve(), target_is_directory=True)
