"""Looks at a cluster as a lab's trainings would find it: the commands here, the partition, and a node by a job of seconds."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from autoresearch_mcp.server.compute.slurm.client import QueueLine, Slurm, SlurmAway, SlurmRefused
from autoresearch_mcp.server.compute.slurm.script import asked_for
from autoresearch_mcp.server.compute.slurm.states import waits_or_runs
from autoresearch_mcp.server.installation import import_environment
from autoresearch_mcp.server.settings import Settings
from autoresearch_mcp.server.untrusted import one_line

PATIENCE_S = 60.0  # for the job
_ON_THE_NODE = """
import importlib.util, json, platform
from autoresearch_mcp.trainer import sandbox
missing = [name for name in ("torch", "numpy", "safetensors", "tiktoken") if importlib.util.find_spec(name) is None]
print(json.dumps({"kernel": platform.release(), "sandbox": sandbox.level(), "missing": missing, "python": platform.python_version()}))
"""

Finding = tuple[str, str]
"""What was found, and what to do about it: empty where it is as it should be."""


async def examine(settings: Settings, state: Path) -> list[Finding]:
    """Check the cluster of a lab. It takes the time of a short job."""
    slurm, section = Slurm(), settings.compute.slurm
    if missing := slurm.missing():
        return [(f"there is no {', '.join(missing)} on this machine", "Run the lab where sbatch works, such as a login node.")]
    try:
        nodes = await slurm.partition(section.partition)
        if not nodes:
            return [(f"there is no partition {section.partition!r}", "Correct [compute.slurm] partition in lab.toml; `sinfo` lists them.")]
        findings = [(f"the nodes of the {section.partition or 'cluster'} are {nodes}", "")]
        return [*findings, await _ask_a_node(slurm, settings, state)]
    except SlurmRefused as error:
        return [(f"Slurm refuses a job: {one_line(str(error), 300)}", "Correct [compute.slurm] in lab.toml.")]
    except SlurmAway as error:
        return [(f"Slurm doesn't answer: {one_line(str(error), 300)}", "Try again later; what runs goes on.")]


async def _ask_a_node(slurm: Slurm, settings: Settings, state: Path) -> Finding:
    section = settings.compute.slurm
    shared = section.shared or state
    shared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shared, prefix="doctor-") as folder:
        here, name = Path(folder), Path(folder).name
        (here / "look.py").write_text(_ON_THE_NODE, encoding="utf-8")
        exports = "".join(f"export {key}='{value}'\n" for key, value in import_environment().items())
        python = section.python or sys.executable
        look = f"'{python}' '{here}/look.py' > '{here}/seen.part' 2> '{here}/error' && mv '{here}/seen.part' '{here}/seen'"
        text = "\n".join(["#!/bin/bash", *section.before, f"{exports}{look}", ""])
        (here / "job.sh").write_text(text, encoding="utf-8")
        given = [f"--job-name={name}", f"--output={here}/output", "--export=NIL", "--time=2", "--ntasks=1", *asked_for(section)]
        id = await slurm.submit(here / "job.sh", [*given, *section.options])
        line: QueueLine | None = None
        for _ in range(int(PATIENCE_S)):
            if (here / "seen").exists():
                break
            line = (await slurm.jobs(name)).get(name)
            if line is None or not waits_or_runs(line):
                break
            await asyncio.sleep(1)
        await slurm.cancel(id, gently=False)
        return _read(here, line)


def _read(here: Path, line: QueueLine | None) -> Finding:
    try:
        seen = json.loads((here / "seen").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if line is not None and waits_or_runs(line):
            why = line.reason or "no reason given"
            return f"a job of seconds still waits after {PATIENCE_S:.0f} s: {why}", "Trainings will wait as long. `squeue` tells more."
        error = (here / "error").read_text(encoding="utf-8", errors="replace") if (here / "error").exists() else ""
        if error:
            hint = "Name a Python with the trainer's packages in [compute.slurm] python, or load it with [compute.slurm] before."
            return f"a node can't run the trainer: {one_line(error, 300)}", hint
        hint = "Name a folder that this machine and the nodes share in [compute.slurm] folder."
        return "a job ended, and left nothing where this machine looks", hint
    where = f"a node with Linux {seen['kernel']} and Python {seen['python']} sees the folder of runs"
    if seen["missing"]:
        return f"{where}, but lacks {', '.join(seen['missing'])}", "Install autoresearch-mcp[local] for the nodes' Python."
    if seen["sandbox"] == "unsandboxed":
        return f"{where}; trainings are not confined there", 'They count at the gate only with [promotion] unsandboxed = "allow".'
    return f"{where}, and confines trainings ({seen['sandbox']})", ""
