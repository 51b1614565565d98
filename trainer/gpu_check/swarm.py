"""Part 6 of the check: a lab over MCP on this device, driven by a process of the server's. Skipped where its packages are missing."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from autoresearch_mcp.trainer import device, prepare
from autoresearch_mcp.trainer.gpu_check.machine import CheckError
from autoresearch_mcp.trainer.gpu_check.parts import Check
from autoresearch_mcp.trainer.gpu_check.report import Part

PACKAGES = ("mcp", "pydantic", "deeplake", "git", "rich", "sqlglot", "starlette", "tenacity", "uvicorn", "matplotlib", "anyio")
LIMIT_S = {"cuda": 420.0, "cpu": 600.0}
END_S = 20.0


class Skipped(Exception):
    """A part can't be done here; the text says why."""


class Driver:
    """The server's process that makes a lab and drives it over MCP.

    Raises:
        Skipped: the server's packages are missing.
    """

    def __init__(self, check: Check) -> None:
        if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
            raise Skipped(f"the server's packages are missing: {', '.join(missing)}. `pip install autoresearch-mcp` brings them.")
        self._folder, self._log = check.work / "lab", check.work / "lab.log"
        shutil.rmtree(self._folder, ignore_errors=True)
        cache = check.work / "cache"
        profile = check.profile.name if check.real else "tiny"
        _lend_data(check, cache, profile)
        kernels = device.kernels_dir(check.data.parent)
        attention = "fa3" if (kernels / device.FLASH_LINK).exists() else "sdpa"
        command = [sys.executable, "-P", "-m", "autoresearch_mcp.server.commands.gpu_lab", str(self._folder), profile, attention]
        command += [str(check.budget_s(10, 6) if check.real else 0.6)]
        self._limit_s = LIMIT_S[check.kind]
        apart = check.work / "tmp"  # its trainings and those of the other parts need not wait for each other's scoring, see quiet.py
        apart.mkdir(exist_ok=True)
        environment = {**os.environ, "AUTORESEARCH_CACHE": str(cache), "TMPDIR": str(apart)}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, encoding="utf-8")

    def wait(self) -> dict[str, Any]:
        """Wait until the lab is done, and return what it showed.

        Raises:
            CheckError: the lab didn't do what it must.
        """
        try:
            out, _ = self._process.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            raise CheckError(f"the lab took longer than {self._limit_s:.0f} s; {self._log} and {self._folder} are kept.") from None
        finally:
            self.stop()
        lines = out.strip().splitlines()
        if self._process.returncode != 0 or not lines:
            raise CheckError(f"the lab failed: {lines[-1] if lines else f'see {self._log}'}")
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer

    def stop(self) -> None:
        """End it, if it still runs. It stops the lab's runner and trainings before it goes."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.communicate(timeout=END_S)
            self._process.kill()


def lab(check: Check, part: Part) -> None:
    """Drive a lab over MCP: baseline, a gain that is promoted, a loss that is refused (part 6).

    Raises:
        Skipped: the server's packages are missing.
        CheckError: the lab didn't do what it must.
    """
    answer = (check.lab or Driver(check)).wait()
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
